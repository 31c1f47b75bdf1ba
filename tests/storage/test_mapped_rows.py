"""Vectors of many files: row numbers go on over files, and only what is asked for is in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from components.storage import mapped_rows as module
from components.storage.embeddings import EMBEDDED_CAPTIONS, read_embeddings, write_embeddings
from components.storage.manifest import write_manifest
from components.storage.mapped_rows import MappedRows
from tests.storage.test_embeddings import ABOUT, table

SIZES = (3, 1, 0, 4)


@pytest.fixture
def parted() -> MappedRows:
    return MappedRows(np.split(np.arange(16, dtype=np.float16).reshape(8, 2), np.cumsum(SIZES)[:-1]))


@pytest.mark.parametrize("rows", [[7, 0, 3, 3, 2], [4], [], list(range(8))])
def test_rows_by_number_over_files(parted: MappedRows, rows: list[int]) -> None:
    assert (len(parted), parted.shape) == (8, (8, 2))
    found = parted[torch.tensor(rows, dtype=torch.long)]
    assert found.dtype == torch.float16
    assert found.tolist() == [[2.0 * row, 2.0 * row + 1] for row in rows]


def test_whole_and_in_parts(parted: MappedRows, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.equal(parted.whole(), parted[torch.arange(8)])
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 3)
    rows = torch.tensor([5, 1, 0, 7])
    parts = list(parted.in_parts(rows))
    assert [len(part) for part in parts] == [3, 1]
    assert torch.equal(torch.cat(parts), parted[rows])


@pytest.mark.parametrize("row", [8, -1])
def test_a_row_that_is_not_there_is_an_error(parted: MappedRows, row: int) -> None:
    with pytest.raises(IndexError):
        parted[torch.tensor([0, row])]


def test_a_cache_is_mapped_not_read(tmp_path: Path) -> None:
    """Its rows are views of the file's pages; no copy of all of them is made."""
    folder = tmp_path / "tuned"
    lines = table([("a", "train", "short", "en", 0, 0)], EMBEDDED_CAPTIONS)
    for name in ("00000", "00001"):
        write_embeddings(folder / "short", name, ABOUT, lines, torch.ones(1, 4))
    write_manifest(tmp_path)
    found = read_embeddings(folder, ["short"], tmp_path / "work")
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("this system does not list what a process has mapped")
    mapped = maps.read_text()
    assert found.vectors.shape == (2, 4)
    assert [name for name in ("00000", "00001") if f"{folder}/short/{name}.safetensors" not in mapped] == []
