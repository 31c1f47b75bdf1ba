"""Figures of captions as counting them one by one gives them, in memory that does not grow with train."""

from __future__ import annotations

import tracemalloc
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.audit.caption_figures import (
    LINES_FILE,
    CaptionTable,
    _figures,
    caption_figures,
    count_words,
    normalised,
    write_figures,
)
from components.audit.captions import Captions
from components.errors import DataError
from components.storage import duplicate_counter
from components.storage.atomic import read_json, sha256_of
from components.storage.duplicate_counter import digest_of
from components.storage.side_tables import Caption, read_table, write_captions
from tests.audit.conftest import captions_of, images_of

TEXTS = st.text("aB ä한一Ⅸ.'ﬁ\u0308", max_size=8)


@given(TEXTS)
def test_short_ways_give_the_figures_of_the_long_one(text: str) -> None:
    plain = unicodedata.normalize("NFC", normalised(text))
    assert _figures(text) == (
        count_words(text),
        digest_of(unicodedata.normalize("NFC", text)),
        digest_of(plain),
    )


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["train", "validation", "test"]), st.sampled_from("ab"), TEXTS)))
def test_figures_are_those_of_counting(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    captions = [
        Caption(f"k{number}", split, column, "en", 0, text, "w")
        for number, (split, column, text) in enumerate(rows)
    ]
    found = captions_of(tmp_path_factory.mktemp("captions"), captions, images_of([], []), samples=2)
    assert found.texts == len(rows)
    train = [(column, text) for split, column, text in rows if split == "train"]
    for column, (share, total) in found.repeated_shares().items():
        texts = [unicodedata.normalize("NFC", text) for of, text in train if of == column]
        assert (share, total) == (1 - len(set(texts)) / len(texts), len(texts))
    known = {unicodedata.normalize("NFC", normalised(text)) for _, text in train}
    for (split, kind), overlap in found.overlaps().items():
        own = [one for one in captions if (one.split, f"{one.column} (en)") == (split, kind)]
        shared = [one for one in own if unicodedata.normalize("NFC", normalised(one.text)) in known]
        assert (overlap.share, overlap.rows) == (len(shared) / len(own), len(own))
        assert [sample["key"] for sample in overlap.samples] == [one.key for one in shared[:2]]
    lengths = found.train_lengths(np.zeros(0, bool))
    assert sum(lengths.values(), Counter()) == Counter(count_words(text) for _, text in train)


def two_shards(folder: Path) -> list[CaptionTable]:
    """Captions of a and b (00000), c and d (00001), and of two texts; those of d come before those of c."""

    def of(key: str, column: str, number: int, text: str, split: str = "train") -> Caption:
        return Caption(key, split, column, "en", number, text, "w")

    tables = {
        "00000": [of("a", "alt", 0, "one two"), of("b", "alt", 0, "one"), of("a", "dense", 0, "x y z")],
        "00001": [of("d", "alt", 0, "a b c d"), of("c", "alt", 0, "five"), of("c", "alt", 1, "six seven")],
        "texts": [of("t", "dense", 0, "only text"), of("u", "dense", 0, "more", "validation")],
    }
    found = []
    for name, captions in tables.items():
        write_captions(folder / f"{name}.parquet", captions)
        (folder / name).mkdir()
        write_figures(folder / f"{name}.parquet", folder / name)
        found.append(
            CaptionTable(folder / f"{name}.parquet", folder / name, None if name == "texts" else name)
        )
    return found


def test_captions_are_joined_to_images_by_key(tmp_path: Path) -> None:
    images = images_of(["a", "b", "c", "d"], ["train"] * 4, shard_rows=2)
    captions = Captions(two_shards(tmp_path), images, 5, tmp_path / "digests")
    assert captions.mean_words() == {"alt (en)": 10 / 5, "dense (en)": 6 / 3}
    assert captions.texts == 2
    assert not (tmp_path / "digests").exists()
    lost = np.array([False, False, False, True])
    assert captions.train_lengths(lost) == {
        "alt (en)": Counter({2: 2, 1: 2}),
        "dense (en)": Counter({3: 1, 2: 1}),
    }
    assert list(captions.every_nth(2)) == [
        (0, "train", {"alt (en)": 2.0, "dense (en)": 3.0}),
        (2, "train", {"alt (en)": 1.5}),
        (None, "train", {"dense (en)": 2.0}),
    ]


def test_captions_of_an_image_that_is_not_there_are_refused(tmp_path: Path) -> None:
    images = images_of(["a", "x", "c", "d"], ["train"] * 4, shard_rows=2)
    with pytest.raises(DataError, match="has captions of b, which is no image of download"):
        Captions(two_shards(tmp_path), images, 5, tmp_path / "digests")


def test_a_table_is_counted_once_and_alike_in_any_number_of_processes(tmp_path: Path) -> None:
    paths = []
    for number in range(3):
        path = tmp_path / f"{number}.parquet"
        write_captions(path, [Caption(f"k{number}", "train", "alt", "en", 0, f"text {number}", "w")])
        paths.append((path, sha256_of(path)))
    one, three = (caption_figures(paths, tmp_path / name, number) for name, number in (("one", 1), ("3", 3)))
    assert [folder.name for folder in one] == [folder.name for folder in three]
    for first, second in zip(one, three, strict=True):
        assert read_table(first / LINES_FILE) == read_table(second / LINES_FILE)
    before = [path.stat().st_ino for path in sorted((tmp_path / "one").rglob("*.parquet"))]
    caption_figures(paths, tmp_path / "one", 2)
    assert [path.stat().st_ino for path in sorted((tmp_path / "one").rglob("*.parquet"))] == before


def test_tables_of_equal_bytes_are_counted_once_and_never_by_two_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.parquet", "b.parquet")]
    for path in paths:
        write_captions(path, [])  # of shards that a captioner found nothing in
    tables = [(path, sha256_of(path)) for path in paths]
    first, second = caption_figures(tables, tmp_path / "work", 2)
    assert first == second
    assert read_json(tmp_path / "work" / "progress.json")["total"] == 1
    assert read_table(first / LINES_FILE).num_rows == 0


def test_memory_is_that_of_one_table_and_not_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicate_counter, "DIGESTS_IN_MEMORY", 1 << 12)
    rows = 4000
    captions = [Caption(f"k{n}", "train", "alt", "en", 0, f"caption number {n}", "w") for n in range(rows)]
    write_captions(tmp_path / "0.parquet", captions)
    tables = []
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        shifted = [replace(one, key=f"{number}_{one.key}", text=f"{one.text} {number}") for one in captions]
        write_captions(tmp_path / f"{number}.parquet", shifted)
        write_figures(tmp_path / f"{number}.parquet", tmp_path / str(number))
        tables.append(CaptionTable(tmp_path / f"{number}.parquet", tmp_path / str(number), None))
    peaks = []
    for part in (tables[:2], tables):
        tracemalloc.start()
        found = Captions(part, images_of([], []), 5, tmp_path / "digests")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.repeated_shares() == {"alt": (0.0, rows * len(part))}
    assert peaks[1] - peaks[0] < 8 * rows * 18 / 4  # all digests of train would be four times as much
