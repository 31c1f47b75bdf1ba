from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components.errors import DataError
from components.storage import hashes
from components.storage.atomic import sha256_of
from components.storage.hashes import SPARE_LINES, known_sha256, remember_hashes
from components.storage.manifest import read_manifest, write_manifest

A_MINUTE = 60_000_000_000


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Remember in a file, and note what is read."""
    names: list[str] = []

    def noted(path: Path) -> str:
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(hashes, "sha256_of", noted)
    remember_hashes(tmp_path / "work" / "hashes.txt")
    return names


def old(path: Path, data: bytes) -> Path:
    """Write a file that was last modified a minute ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    at = time.time_ns() - A_MINUTE
    os.utime(path, ns=(at, at))
    return path


def test_a_file_is_read_once_by_all_processes(tmp_path: Path, read: list[str]) -> None:
    path = old(tmp_path / "a", b"one")
    assert known_sha256(path) == known_sha256(path) == sha256_of(path)
    assert read == ["a"]
    linked = tmp_path / "b"
    linked.hardlink_to(path)
    assert known_sha256(linked) == sha256_of(path)
    assert read == ["a"]
    code = (
        "import sys; from pathlib import Path; from components.storage import hashes\n"
        "hashes.sha256_of = lambda path: sys.exit('it was read again')\n"
        f"print(hashes.known_sha256(Path({str(path)!r})))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == sha256_of(path)


@pytest.mark.parametrize(
    "touch",
    [
        lambda path: path.write_bytes(b"two"),
        lambda path: old(path, b"other"),
        lambda path: os.replace(old(path.with_name("new"), b"two"), path),
    ],
    ids=["written to", "of another size, long ago", "replaced by another, long ago"],
)
def test_a_file_that_was_touched_is_read_again(
    tmp_path: Path, read: list[str], touch: Callable[[Path], object]
) -> None:
    path = old(tmp_path / "a", b"one")
    known_sha256(path)
    touch(path)
    assert known_sha256(path) == sha256_of(path)
    assert read == ["a", "a"]


def test_a_file_of_this_moment_is_not_remembered(tmp_path: Path, read: list[str]) -> None:
    """A second write within the clock's tick would leave size and time as they are."""
    path = tmp_path / "a"
    path.write_bytes(b"one")
    stat = path.stat()
    known_sha256(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert known_sha256(path) == sha256_of(path)
    assert read == ["a", "a"]


def test_a_line_that_a_kill_has_cut_is_passed_over(tmp_path: Path, read: list[str]) -> None:
    paths = [old(tmp_path / name, name.encode()) for name in "ab"]
    for path in paths:
        known_sha256(path)
    memory = tmp_path / "work" / "hashes.txt"
    memory.write_bytes(memory.read_bytes()[:-30])
    remember_hashes(memory)
    assert [known_sha256(path) for path in paths] == [sha256_of(path) for path in paths]
    assert read == ["a", "b", "b"]


def test_the_memory_does_not_grow_for_ever(tmp_path: Path, read: list[str]) -> None:
    path, memory = old(tmp_path / "a", b"one"), tmp_path / "work" / "hashes.txt"
    known_sha256(path)
    memory.write_text(memory.read_text() * (SPARE_LINES + 2))
    remember_hashes(memory)
    assert len(memory.read_text().splitlines()) == 1
    known_sha256(path)
    assert read == ["a"]


def test_a_manifest_reads_its_files_once_and_sees_a_flipped_bit(tmp_path: Path, read: list[str]) -> None:
    folder = tmp_path / "artifact"
    path = old(folder / "a", b"one")
    write_manifest(folder)
    for _ in range(3):
        read_manifest(folder)
    assert read == ["a"]
    path.write_bytes(b"onf")
    with pytest.raises(DataError, match="is damaged"):
        read_manifest(folder)


def test_without_a_memory_every_file_is_read(tmp_path: Path) -> None:
    path = old(tmp_path / "a", b"one")
    assert known_sha256(path) == known_sha256(path) == sha256_of(path)
    assert list(tmp_path.iterdir()) == [path]
