"""The gallery shows hostile captions as text, in a page that needs nothing but itself."""

from __future__ import annotations

from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from components.audit.curation.dropped import Drop, Dropped
from components.audit.gallery import ShardFiles, chosen_keys, shown, write_gallery
from components.storage.manifest import write_manifest
from components.storage.scores import SCORES
from components.storage.shards import Pair, shards_of
from components.storage.side_tables import Caption, write_captions, write_table
from tests.audit.conftest import images_of
from tests.pairs import write_pairs

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }} {% include 'x' %}",
    "</bdi></article><style>*{display:none}</style>",
    "evil \u202egnp.exe",
    "nul \x00 and escape \x1b[31m",
    "a" * 1_000_000,
    "",
]


class Page(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def shard(tmp_path: Path) -> ShardFiles:
    """One image a hostile caption, each with a written one; the last image has no score."""
    file = BytesIO()
    Image.new("RGB", (640, 480), (10, 200, 30)).save(file, "JPEG")
    pairs, captions, scores = [], [], []
    for number, text in enumerate(HOSTILE):
        key = f"k{number}"
        given: list[dict[str, Any]] = [
            {"column": "alt", "language": "en", "number": 0, "text": text, "writer": "list"}
        ]
        metadata = {"split": "train", "width": 640, "height": 480, "captions": given}
        pairs.append(Pair(key, file.getvalue(), text, metadata))
        captions += [
            Caption(key, "train", "alt", "en", 0, text, "source"),
            Caption(key, "train", "tiny_short", "en", 0, f"written {number}", "tiny"),
        ]
        score = {"key": key, "column": "alt", "number": 0, "similarity": 0.25, "is_cut": True}
        scores += [{**score, "agreement": 0.5}] if number < len(HOSTILE) - 1 else []
    rows = {"0.tar": write_pairs(tmp_path / "download" / "0.tar", pairs)}
    write_manifest(tmp_path / "download", rows)
    (entry,) = shards_of(tmp_path / "download")
    files = ShardFiles(
        tmp_path / "download",
        entry,
        tmp_path / "work",
        tmp_path / "captions.parquet",
        tmp_path / "scores.parquet",
    )
    write_captions(files.captions, captions)
    write_table(files.scores, pa.Table.from_pylist(scores, SCORES))
    return files


def page_of(path: Path, shard: ShardFiles, dropped: dict[str, Drop] | None = None) -> tuple[str, Page]:
    chosen = {key: (dropped or {}).get(key) for key in (f"k{number}" for number in range(len(HOSTILE)))}
    write_gallery(path, [(shard, chosen)], "passed")
    html, page = path.read_text("utf-8"), Page()
    page.feed(html)
    return html, page


def test_captions_are_text_and_never_markup(shard: ShardFiles, tmp_path: Path) -> None:
    html, page = page_of(tmp_path / "gallery.html", shard)
    assert "script" not in page.tags
    assert page.tags.count("style") == 1
    assert page.tags.count("img") == len(HOSTILE)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    sources = [value or "" for name, value in page.attributes if name in {"src", "href"}]
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    for text in HOSTILE[:4]:
        assert text in page.text
    for hidden in ("\u202e", "\x00", "\x1b"):
        assert hidden not in html
    assert "RIGHT-TO-LEFT OVERRIDE" in page.text
    assert "U+0000" in page.text
    assert "and 998,800 characters more" in page.text
    assert len(html) < 100_000
    assert "default-src 'none'" in html


def test_old_and_new_stand_apart_with_their_scores(shard: ShardFiles, tmp_path: Path) -> None:
    _, page = page_of(tmp_path / "gallery.html", shard, {"k1": Drop("near_image", 0.987, "k0")})
    first = page.text.partition("k0")[2].partition("k1")[0]
    assert first.index("Old") < first.index(HOSTILE[0]) < first.index("New") < first.index("written 0")
    assert "similarity 0.25 (of its beginning: longer than CLIP reads) · agreement 0.50" in first
    assert "dropped: near_image 0.987, like k0" in page.text
    assert "similarity" not in page.text.partition(f"written {len(HOSTILE) - 2}")[2]


def test_the_page_has_equal_bytes_and_needs_no_scores(shard: ShardFiles, tmp_path: Path) -> None:
    html, _ = page_of(tmp_path / "a.html", shard)
    assert page_of(tmp_path / "b.html", shard)[0] == html
    shard.scores.unlink()
    assert "similarity 0.25" not in page_of(tmp_path / "c.html", shard)[0]


def test_images_are_chosen_by_key_alone() -> None:
    keys = [f"k{number}" for number in range(100)]
    splits = ["train"] * 90 + ["test"] * 10

    def chosen(keys: list[str], splits: list[str], count: int) -> set[str]:
        images = images_of(keys, splits)
        found = chosen_keys(images, Dropped(images), count)
        assert {drop for of_shard in found.values() for drop in of_shard.values()} <= {None}
        return {key for of_shard in found.values() for key in of_shard}

    first = chosen(keys, splits, 7)
    assert len(first) == 7
    assert first <= set(keys[:90])
    assert chosen(keys[::-1], splits[::-1], 7) == first
    assert chosen(keys, splits, 0) == set()
    assert len(chosen(keys, splits, 1000)) == 90


def test_a_chosen_image_comes_with_its_shard_and_why_it_is_dropped() -> None:
    images = images_of(["a", "b", "c"], ["train"] * 3, shard_rows=2)
    dropped = Dropped(images)
    dropped.add([2], "near_image", [0.987654321], [0])
    assert chosen_keys(images, dropped, 3) == {
        "00000": {"a": None, "b": None},
        "00001": {"c": Drop("near_image", 0.987654, "a")},
    }


def test_the_first_row_that_is_dropped_is_named_with_the_one_it_is_like() -> None:
    dropped = Dropped(images_of(["a", "b", "c"], ["train"] * 3, shard_rows=2))
    dropped.add([2], "near_image", [0.9], [0])
    dropped.add([1], "sharp", [0.1])
    assert (dropped.first("near_image"), dropped.first("sharp")) == ("c, like a", "b")


def test_joiners_of_emoji_stay() -> None:
    assert shown("\U0001f468\u200d\U0001f469") == [(False, "\U0001f468\u200d\U0001f469")]
    assert shown("") == []
    assert shown("\u2067a") == [(True, "RIGHT-TO-LEFT ISOLATE"), (False, "a")]
