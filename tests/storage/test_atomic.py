from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import DataError
from components.storage.atomic import (
    content_key,
    link_or_copy,
    new_file,
    new_folder,
    read_json,
    write_bytes,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError), new_file(path) as part:
        part.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with new_folder(folder) as part:
        (part / "a").write_text("old")
    with pytest.raises(RuntimeError), new_folder(folder) as part:
        (part / "a").write_text("half")
        raise RuntimeError
    assert (folder / "a").read_text() == "old"
    with new_folder(folder) as part:
        (part / "b").write_text("new")
    assert [p.name for p in folder.iterdir()] == ["b"]


def test_replacing_a_file_does_not_write_through_a_hard_link(tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    write_bytes(cache, b"good")
    link_or_copy(cache, out)
    write_bytes(out, b"new")
    assert cache.read_bytes() == b"good"


def test_json_is_sorted_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"b": 1, "a": "ü"})
    assert path.read_text("utf-8") == '{\n  "a": "ü",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": "ü", "b": 1}


def test_damaged_and_missing_json_are_data_faults(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('{"a": ')
    for name in ("cut.json", "none.json"):
        with pytest.raises(DataError, match=name):
            read_json(tmp_path / name)


def test_content_key_depends_on_values_and_not_on_order() -> None:
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1}) != content_key({"a": 1, "b": 3})
