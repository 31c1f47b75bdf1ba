"""WebDataset shards that are there already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.errors import ConfigurationError, DataError
from components.settings.sources import Shards
from components.sources.rows import ImageMember, Rejection, Row
from components.sources.values import normal_key
from components.storage.atomic import sha256_of
from tests.sources.reading import columns, good, read, told
from tests.storage.test_tar_index import tar

Members = list[tuple[str, bytes]]


def shards(**changes: Any) -> Shards:
    fields: dict[str, Any] = {
        "kind": "shards", "name": "cc", "path": "cc3m", "sha256": None, "split": "train",
        "split_column": None, "txt_lines": False, "captions": columns("txt"), "limit": None, "weight": None,
    }  # fmt: skip
    return Shards(**{**fields, **changes})


def sample(key: str, words: str = "words", **fields: Any) -> Members:
    """The three members of img2dataset."""
    about = {"caption": words, "url": f"http://a/{key}", "key": key, "status": "success", **fields}
    image = f"image {key}".encode()
    return [
        (f"{key}.jpg", image),
        (f"{key}.json", json.dumps(about).encode()),
        (f"{key}.txt", words.encode()),
    ]


def put(folder: Path, **contents: Members) -> None:
    (folder / "cc3m").mkdir(exist_ok=True)
    for name, members in contents.items():
        tar(folder / "cc3m" / f"{name.removeprefix('s')}.tar", members)


def test_samples_of_many_shards_in_order_with_keys_of_their_own(tmp_path: Path) -> None:
    put(tmp_path, s00001=sample("000", "c"), s00000=sample("000", "a") + sample("dir/001", "b"))
    (tmp_path / "cc3m" / "00000_stats.json").write_text("{}")
    rows = good(read(shards(), tmp_path))
    assert [(row.key, row.captions[0].text) for row in rows] == [
        ("cc_00000_000", "a"), (normal_key("cc_00000_dir/001"), "b"), ("cc_00001_000", "c"),
    ]  # fmt: skip
    images = [row.image for row in rows]
    assert all(isinstance(image, ImageMember) for image in images)
    assert [image.read() for image in images if isinstance(image, ImageMember)] == [
        b"image 000", b"image dir/001", b"image 000",
    ]  # fmt: skip
    assert isinstance(images[1], ImageMember)
    assert images[1].name == "00000.tar/dir/001.jpg"
    assert len(read(shards(limit=2), tmp_path)) == 2
    assert len(read(shards(path="cc3m/00001.tar"), tmp_path)) == 1
    pinned = shards(path="cc3m/00001.tar", sha256=sha256_of(tmp_path / "cc3m/00001.tar"))
    assert len(read(pinned, tmp_path)) == 1
    with pytest.raises(DataError, match="params pin"):
        read(shards(path="cc3m/00000.tar", sha256=pinned.sha256), tmp_path)


def test_captions_and_splits_from_json(tmp_path: Path) -> None:
    put(
        tmp_path,
        s00000=sample("0", "alt", long=["a", "b"], split="test")
        + sample("1", "alt", split="dev")
        + [("2.jpg", b""), ("2.json", b'{"caption": "cut')]
        + [("3.jpg", b""), ("3.json", b"\xff")]
        + [("4.jpg", b""), ("4.txt", b"unasked")],
    )
    wanted = columns("long", "caption", prefix="json.")
    rows = read(shards(split=None, split_column="json.split", captions=wanted), tmp_path)
    assert told(rows) == [
        "a", "unknown_split @ 00000.tar sample 1", "bad_json @ 00000.tar sample 2",
        "bad_utf8 @ 00000.tar sample 3", "unknown_split @ 00000.tar sample 4",
    ]  # fmt: skip
    assert isinstance(rows[0], Row)
    assert rows[0].split == "test"
    assert [(one.column, one.number, one.text) for one in rows[0].captions] == [
        ("long", 0, "a"), ("long", 1, "b"), ("caption", 0, "alt"),
    ]  # fmt: skip


def test_a_sample_without_an_image_or_a_caption_is_a_rejected_row(tmp_path: Path) -> None:
    members = [
        ("0.JPG", b""),
        ("0.Txt", b"ok"),
        ("1.jpg", b""),
        ("2.txt", b"x"),
        ("3.jpg", b""),
        ("3.png", b""),
    ]
    members += [("4.left.jpg", b""), ("4.right.jpg", b""), ("5.jpg", b""), ("5.txt", b"x" * 10_000_001)]
    put(tmp_path, s00000=members)
    rows = read(shards(), tmp_path)
    assert told(rows) == [
        "ok", "empty_caption @ 00000.tar sample 1", "no_image @ 00000.tar sample 2",
        "several_images @ 00000.tar sample 3", "empty_caption @ 00000.tar sample 4.left",
        "empty_caption @ 00000.tar sample 4.right", "too_large @ 00000.tar sample 5",
    ]  # fmt: skip
    assert [row.key for row in rows if isinstance(row, Rejection)] == [
        "cc_00000_1", "cc_00000_2", "cc_00000_3", normal_key("cc_00000_4.left"),
        normal_key("cc_00000_4.right"), "cc_00000_5",
    ]  # fmt: skip


FRAMES = [member for number in range(200) for member in sample(f"frame.{number:04d}", f"words {number}")]


@pytest.mark.parametrize(
    ("members", "rows"),
    [
        (sample("0000", "first") + FRAMES, ["first", *(f"words {number}" for number in range(200))]),
        ([("v1.0/f.000.JPG", b""), ("v1.0/f.000.TXT", b"upper")], ["upper"]),
        ([("0.jpg", b""), ("0.txt", b"one"), ("0.seg.png", b""), ("0.clip.json", b"{}"), ("0.l.txt", b"x")],
         ["one"]),
        ([("a.b.jpg", b""), ("a.b.txt", b"dots"), ("a.jpg", b""), ("a.txt", b"none")], ["dots", "none"]),
        ([("a.jpg", b""), ("a.b.jpg", b""), ("a.txt", b"none"), ("a.b.txt", b"dots")], ["none", "dots"]),
        ([("0.jpg", b""), ("0.jpg.txt", b"two suffixes")], ["two suffixes"]),
        ([("0.jpg", b""), ("0.txt", b"a"), ("0.TXT", b"b")], ["several_captions @ 00000.tar sample 0"]),
        ([("0.jpg", b""), ("0.JPG", b""), ("0.txt", b"")], ["several_images @ 00000.tar sample 0"]),
        ([("0.in.png", b""), ("0.out.png", b""), ("0.txt", b"x")],
         ["empty_caption @ 00000.tar sample 0.in", "empty_caption @ 00000.tar sample 0.out",
          "no_image @ 00000.tar sample 0"]),
    ],
    ids=["frames", "folder", "modalities", "own captions", "in any order", "two suffixes", "two captions",
         "two images", "no plain image"],
)  # fmt: skip
def test_dots_in_names_lose_no_sample(tmp_path: Path, members: Members, rows: list[str]) -> None:
    put(tmp_path, s00000=members)
    assert told(read(shards(), tmp_path)) == rows


def test_what_lies_beside_a_sample_and_is_not_read_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    beside = [("0.seg.png", b""), ("0.clip.json", b"{}"), ("0.cls", b"7")]
    put(tmp_path, s00000=sample("0") + beside, s00001=[*sample("1"), ("1.SEG.png", b"")])
    for _ in range(2):
        assert told(read(shards(), tmp_path)) == ["words"] * 2
    assert caplog.messages == [
        f"source cc, {tmp_path}/cc3m: members beside the samples that are not read: 4 "
        "(seg.png 2, clip.json 1, cls 1)"
    ]
    of_json = shards(captions=columns("caption", prefix="json."))
    assert told(read(of_json, tmp_path)) == ["words"] * 2  # a part with json and no image is no sample


def test_members_of_other_kinds_are_never_decoded(tmp_path: Path) -> None:
    pickled = b"cos\nsystem\n(S'touch fired'\ntR."
    others = [(f"0.{kind}", pickled) for kind in ("pyd", "pickle", "pth", "npy", "cls")]
    put(tmp_path, s00000=sample("0") + others + [("1.pyd", pickled), ("README", b""), (".x", b"")])
    assert told(read(shards(), tmp_path)) == ["words"]
    assert not Path("fired").exists()


@pytest.mark.parametrize(
    "members",
    [
        sample("0") + sample("1") + [("0.cls", b"")],
        sample("0") + sample("0"),
        [*sample("0"), ("./0.txt", b"again")],
        [*sample("0"), ("0.cls", b""), ("0.cls", b"")],
    ],
    ids=["interleaved", "twice", "two captions", "two of another kind"],
)
def test_a_key_stands_once_and_in_one_place(tmp_path: Path, members: Members) -> None:
    put(tmp_path, s00000=members)
    with pytest.raises(DataError, match="twice, or apart from the other files of its key"):
        read(shards(), tmp_path)


def test_a_shard_that_is_cut_or_holds_nothing_stops_before_its_first_row(tmp_path: Path) -> None:
    put(tmp_path, s00000=sample("0"), s00001=sample("1"))
    path = tmp_path / "cc3m/00001.tar"
    path.write_bytes(path.read_bytes()[:1024])  # one whole member and nothing behind it
    with pytest.raises(DataError, match="00001.tar is no whole tar"):
        read(shards(), tmp_path)
    assert len(read(shards(limit=1), tmp_path)) == 1
    put(tmp_path, s00001=[("notes.md", b"")])
    with pytest.raises(DataError, match="00001.tar holds no image and no caption"):
        read(shards(), tmp_path)
    with pytest.raises(ConfigurationError, match="cc4m not found"):
        read(shards(path="cc4m"), tmp_path)


@pytest.mark.parametrize("size", [1024, 10240])
def test_an_empty_shard_among_many_has_no_rows(
    tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, s00000=sample("0"))
    (tmp_path / "cc3m/00001.tar").write_bytes(bytes(size))
    (tmp_path / "cc3m/00002.tar").write_bytes(bytes(size))
    assert told(read(shards(), tmp_path)) == ["words"]
    assert caplog.messages == [f"source cc, {tmp_path}/cc3m: empty shards: 2 of 3 (00001.tar, 00002.tar)"]
    (tmp_path / "cc3m/00000.tar").unlink()
    with pytest.raises(DataError, match="00001.tar holds no file, and no other shard of sources.cc holds"):
        read(shards(), tmp_path)


@pytest.mark.parametrize("name", ["00001.tar.gz", "00001.TGZ", "00001.tar.zst", "00001.tar.xz"])
def test_a_compressed_shard_is_not_passed_over(tmp_path: Path, name: str) -> None:
    put(tmp_path, s00000=sample("0"))
    (tmp_path / "cc3m" / name).touch()
    with pytest.raises(ConfigurationError, match=f"holds {name}, which is compressed; expected .tar: unpack"):
        read(shards(), tmp_path)
    assert len(read(shards(path="cc3m/*.tar"), tmp_path)) == 1


def test_a_name_that_is_no_utf_8_is_rejected(tmp_path: Path) -> None:
    put(tmp_path, s00000=[("\udcff.jpg", b""), ("\udcff.txt", b"x")])
    rows = read(shards(), tmp_path)
    assert told(rows) == ["lone_surrogate @ 00000.tar sample \ufffd"]
    assert isinstance(rows[0], Rejection)
    assert rows[0].key.encode()
