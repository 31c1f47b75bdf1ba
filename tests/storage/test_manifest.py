from __future__ import annotations

import random
from pathlib import Path

import pytest

from components.errors import DataError
from components.storage.manifest import folder_key, read_manifest, write_manifest
from components.storage.result_cache import get_or_build, put_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    (path / "sub").mkdir(parents=True)
    (path / "a.bin").write_bytes(bytes(range(256)) * 8)
    (path / "sub" / "b.bin").write_bytes(b"b" * 999)
    write_manifest(path, {"a.bin": 3})
    return path


def test_round_trip(folder: Path) -> None:
    assert [(e.uri, e.rows) for e in read_manifest(folder)] == [("a.bin", 3), ("sub/b.bin", None)]
    assert [e.uri for e in read_manifest(folder, "sub/")] == ["sub/b.bin"]


def test_every_flipped_bit_and_every_cut_is_refused(folder: Path) -> None:
    rng = random.Random(5)  # noqa: S311 - a test's own draws
    path = folder / "a.bin"
    good = path.read_bytes()
    for _ in range(100):
        bad = bytearray(good)
        bad[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(DataError, match="damaged"):
            read_manifest(folder)
        path.write_bytes(good[: rng.randrange(len(good))])
        with pytest.raises(DataError, match="damaged"):
            read_manifest(folder)
    path.write_bytes(good)
    read_manifest(folder)


def test_a_missing_and_an_additional_file_are_refused(folder: Path) -> None:
    (folder / "c.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"manifest says 2 files, found 3.*c.bin"):
        read_manifest(folder)
    (folder / "c.bin").unlink()
    (folder / "a.bin").unlink()
    with pytest.raises(DataError, match="a.bin"):
        read_manifest(folder)


def test_folder_key_follows_content(folder: Path) -> None:
    before = folder_key(folder)
    (folder / "a.bin").write_bytes(b"new")
    write_manifest(folder)
    assert folder_key(folder) != before
    assert len(folder_key(folder, "sub/")) == 64


def test_a_piece_is_made_once_and_made_again_when_damaged(tmp_path: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "x").write_text("content")

    for _ in range(2):
        found = get_or_build(tmp_path / "pieces", "key", make)
    assert len(made) == 1
    (found / "x").write_text("rotten!")
    put_files(get_or_build(tmp_path / "pieces", "key", make), tmp_path / "out")
    assert len(made) == 2
    assert (tmp_path / "out" / "x").read_text() == "content"
