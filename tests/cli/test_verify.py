from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.cli.verify import verify
from components.errors import DataError
from components.storage.hashes import remember_hashes
from components.storage.layout import Layout
from components.storage.manifest import read_manifest, write_manifest


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / ".work", tmp_path)
    for stage in ("download", "audit"):
        folder = layout.artifact(stage)
        folder.mkdir(parents=True)
        (folder / "a.bin").write_bytes(stage.encode() * 1000)
        os.utime(folder / "a.bin", (1e9, 1e9))
        write_manifest(folder)
    return layout


def test_all_is_well(layout: Layout) -> None:
    lines = verify(layout)
    assert [line.split()[:2] for line in lines[:-1]] == [["download", "1"], ["audit", "1"]]


def test_bytes_that_changed_behind_everybodys_back_are_found(layout: Layout) -> None:
    """Size and time are as they were: only who reads all sees it, and stages see it from then on."""
    folder = layout.artifact("download")
    remember_hashes(layout.hashes)
    read_manifest(folder)
    data = bytearray((folder / "a.bin").read_bytes())
    data[7] ^= 1
    (folder / "a.bin").write_bytes(data)
    os.utime(folder / "a.bin", (1e9, 1e9))
    read_manifest(folder)
    with pytest.raises(DataError, match="download.a.bin is damaged"):
        verify(layout)
    with pytest.raises(DataError, match="is damaged"):
        read_manifest(folder)


def test_all_that_is_wrong_is_named(layout: Layout) -> None:
    (layout.artifact("download") / "a.bin").unlink()
    (layout.artifact("audit") / "a.bin").write_bytes(b"else")
    with pytest.raises(DataError, match=r"(?s)download/a.bin is missing.*audit/a.bin is damaged.*dvc"):
        verify(layout)


def test_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dvc repro"):
        verify(Layout(tmp_path / ".work", tmp_path))
