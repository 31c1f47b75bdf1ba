"""Folders of images with their captions beside them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.errors import ConfigurationError, DataError
from components.settings.sources import Sidecars
from components.sources.rows import ImageFile, Rejection, Row
from components.sources.values import Rejected, file_below, normal_key
from tests.sources.reading import columns, good, read, told


def sidecars(**changes: Any) -> Sidecars:
    fields: dict[str, Any] = {
        "kind": "sidecars", "name": "own", "path": "photos", "split": "train", "split_column": None,
        "txt_lines": False, "captions": columns("txt"), "limit": None, "weight": None,
    }  # fmt: skip
    return Sidecars(**{**fields, **changes})


def put(folder: Path, files: dict[str, bytes | str | dict[str, Any]]) -> None:
    for name, content in files.items():
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content) if isinstance(content, dict) else content
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_folder_by_folder_in_the_order_of_names(tmp_path: Path) -> None:
    put(tmp_path, {
        "b.jpg": b"", "b.txt": "\ufeffa cat\r\non a mat\n", "a.x.PNG": b"", "a.x.txt": "dots",
        "z/1.webp": b"", "z/1.txt": "one", "m/2.jpeg": b"", "m/2.txt": "two",
        ".hidden/3.jpg": b"", ".4.jpg": b"", "Thumbs.db": b"", "noext": b"",
    })  # fmt: skip
    rows = good(read(sidecars(), tmp_path))
    assert [(row.key, row.captions[0].text) for row in rows] == [
        (normal_key("own_a.x"), "dots"), ("own_b", "a cat on a mat"), (normal_key("own_m/2"), "two"),
        (normal_key("own_z/1"), "one"),
    ]  # fmt: skip
    assert rows[0].image == ImageFile(tmp_path / "photos" / "a.x.PNG", "a.x.PNG")
    put(tmp_path, {f"n{n}/1.{kind}": "x" for n in (5, 2, 8, 1, 7, 4, 6, 3) for kind in ("jpg", "txt")})
    assert [row.key for row in read(sidecars(), tmp_path)][3:-1] == [
        normal_key(f"own_n{n}/1") for n in range(1, 9)
    ]
    lines = good(read(sidecars(txt_lines=True, limit=2), tmp_path))
    assert [[one.text for one in row.captions] for row in lines] == [["dots"], ["a cat", "on a mat"]]


def test_captions_and_splits_from_json(tmp_path: Path) -> None:
    put(tmp_path, {
        "1.jpg": b"", "1.json": {"short": "a cat", "long": ["a grey cat", "a cat, grey"], "split": "test"},
        "2.jpg": b"", "2.json": {"short": "", "split": "dev"},
        "3.jpg": b"", "3.json": {"short": "half \ud83d", "split": "train"},
        "4.jpg": b"", "4.json": "[1]",
        "5.jpg": b"", "5.json": '{"short": "cut',
        "6.jpg": b"", "6.json": {"other": 1, "split": "train"}, "6.txt": "unasked \xff",
        "7.jpg": b"", "7.txt": "no json",
    })  # fmt: skip
    source = sidecars(
        split=None, split_column="json.split", captions=columns("short", "long", prefix="json.")
    )
    rows = read(source, tmp_path)
    assert told(rows) == [
        "a cat", "unknown_split @ 2", "lone_surrogate @ 3", "bad_json @ 4", "bad_json @ 5",
        "empty_caption @ 6", "unknown_split @ 7",
    ]  # fmt: skip
    assert isinstance(rows[0], Row)
    assert rows[0].split == "test"
    assert [(one.column, one.text) for one in rows[0].captions] == [
        ("short", "a cat"), ("long", "a grey cat"), ("long", "a cat, grey"),
    ]  # fmt: skip


def test_what_lies_alone_leads_out_or_is_no_text_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("not yours")
    (tmp_path / "secret.jpg").touch()
    put(tmp_path, {
        "1.jpg": b"", "2.txt": "no image", "3.jpg": b"", "3.txt": b"\xff", "5.jpg": b"",
        "5.txt": b"x" * 10_000_001, "6.txt": "x", "7.jpg": b"", "8.jpg": b"", "8.txt": "nul \0",
    })  # fmt: skip
    (tmp_path / "photos/4.jpg").touch()
    (tmp_path / "photos/4.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "photos/6.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "photos/7.txt").symlink_to("nowhere.txt")
    for name in ("9.jpg", "10.txt"):  # a link to itself
        (tmp_path / "photos" / name).symlink_to(name)
    (tmp_path / "photos/10.jpg").touch()
    assert told(read(sidecars(), tmp_path)) == [
        "empty_caption @ 1", "caption_missing @ 10", "image_missing @ 2", "bad_utf8 @ 3",
        "path_outside_folder @ 4", "too_large @ 5", "path_outside_folder @ 6",
        "caption_missing @ 7", "nul_character @ 8", "unreadable @ 9",
    ]  # fmt: skip


def test_links_that_dvc_add_leaves_are_files_of_the_folder(tmp_path: Path) -> None:
    put(tmp_path, {"1.jpg": b"", "1.txt": "a cat", "more/2.jpg": b"2", "more/2.txt": "a dog"})
    before = read(sidecars(), tmp_path)
    offline = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    for command in (
        ["init", "--quiet", "--no-scm"],
        ["config", "cache.type", "symlink"],
        ["config", "cache.dir", str(tmp_path / "elsewhere")],
        ["add", "--quiet", "photos"],
    ):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=tmp_path, env=offline, check=True)
    assert (tmp_path / "photos/more/2.txt").readlink().is_relative_to(tmp_path / "elsewhere")
    assert read(sidecars(), tmp_path) == before
    assert told(before) == ["a cat", "a dog"]
    cached = (tmp_path / "photos/more/2.jpg").readlink()
    (tmp_path / "outside.jpg").symlink_to(cached)
    for name in (str(cached), os.path.relpath(cached, tmp_path / "photos"), "../outside.jpg"):
        with pytest.raises(Rejected, match="path_outside_folder"):
            file_below((tmp_path / "photos").resolve(), name)  # the link is what must lie in the folder


def test_case_of_suffixes_and_a_second_suffix_make_no_other_sample(tmp_path: Path) -> None:
    put(tmp_path, {
        "DSC0.JPG": b"", "DSC0.TXT": "upper", "IMG.jpg": b"", "IMG.jpg.txt": "two suffixes",
        "J.PNG": b"", "J.Json": {"short": "json"}, "frame.0000.jpg": b"", "frame.0000.jpg.TXT": "dots",
        ".jpg.txt": "hidden", "jpg.txt": "no image", "png.jpg.txt": "none either",
    })  # fmt: skip
    assert told(read(sidecars(), tmp_path)) == [
        "upper", "two suffixes", "empty_caption @ J", "dots", "image_missing @ jpg", "image_missing @ png",
    ]  # fmt: skip
    captions = columns("short", prefix="json.")
    assert told(read(sidecars(captions=captions), tmp_path))[2] == "json"


def test_nothing_is_chosen_where_two_files_could_be_meant(tmp_path: Path) -> None:
    put(tmp_path, {
        "a.jpg": b"", "a.png": b"", "a.txt": "one caption, two images", "b.JPG": b"", "b.jpg": b"",
        "c.jpg": b"", "c.txt": "c", "c.jpg.txt": "another", "c.json": {"short": "of json"},
        "d.jpg": b"", "d.txt": "of txt", "d.json": {}, "d.JSON": {},
    })  # fmt: skip
    twins = ["several_images @ a", "several_images @ b"]
    assert told(read(sidecars(), tmp_path)) == [*twins, "several_captions @ c", "of txt"]
    of_json = sidecars(captions=columns("short", prefix="json."))
    assert told(read(of_json, tmp_path)) == [*twins, "of json", "several_captions @ d"]


def test_names_that_look_alike_have_keys_of_their_own(tmp_path: Path) -> None:
    names = [
        "猫", "狗", "IMG (1)", "IMG [1]", "aB", "Ab", "ab", "caf\u00e9", "cafe\u0301", "m/2", "m_2",
        "a b", "a  b", "n" * 200, "n" * 199 + "m", "x", "x ", " x",
    ]  # fmt: skip
    put(tmp_path, {f"{name}.{kind}": name for name in names for kind in ("jpg", "txt")})
    rows = good(read(sidecars(), tmp_path))
    assert len({row.key for row in rows}) == len(names)
    assert all(re.fullmatch("[a-z0-9_-]{1,128}", row.key) for row in rows)
    assert {row.key for row in rows} >= {"own_ab", "own_m_2", "own_x"}  # nothing was to be cleaned
    for name in names:  # whatever else is there, or was read before
        shutil.rmtree(tmp_path / "photos")
        put(tmp_path, {f"{name}.{kind}": name for kind in ("jpg", "txt")})
        (row,) = good(read(sidecars(), tmp_path))
        assert row in rows


def test_a_name_that_is_no_utf_8_is_rejected(tmp_path: Path) -> None:
    put(tmp_path, {"1.jpg": b"", "1.txt": "fine"})
    try:
        for kind in (b"jpg", b"txt"):
            Path(os.fsdecode(bytes(tmp_path / "photos") + b"/\xff." + kind)).write_bytes(b"fine")
    except OSError:
        pytest.skip("this file system wants UTF-8 in names")
    rows = read(sidecars(), tmp_path)
    assert told(rows) == ["fine", "lone_surrogate @ \ufffd"]
    assert isinstance(rows[1], Rejection)
    assert rows[1].key.encode()


def test_a_folder_that_is_none_stops(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="photos is no folder; sources.own.path"):
        read(sidecars(), tmp_path)
    put(tmp_path, {"notes.md": ""})
    with pytest.raises(DataError, match="holds no image and no caption"):
        read(sidecars(), tmp_path)


@pytest.mark.parametrize("column", ["caption", "json", "json.", "jpg"])
def test_columns_are_txt_or_fields_of_json(column: str) -> None:
    with pytest.raises(ValueError, match="is neither txt nor json.FIELD"):
        sidecars(captions=named(column))


def named(column: str) -> list[Any]:
    return [one.model_copy(update={"column": column}) for one in columns("any")]
