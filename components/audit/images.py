"""Table of all images: keys, splits and sizes in memory, thumbnails on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.errors import DataError
from components.storage.atomic import read_json, write_json

LEARNED = ("train", "validation")  # splits used for training or model selection
SPLITS = (*LEARNED, "test")
SIZES = ("width", "height", "bytes")
BLOCK_ROWS = 1 << 11
PLACES, LINES = "thumbnails.json", "lines.npy"


@dataclass(frozen=True)
class AuditImages:
    """Keys, splits and sizes by row number; about 50 bytes per image.

    Attributes:
        keys: Keys, one chunk per shard.
        splits: (N,) indices in `SPLITS`.
        sizes: `SIZES` of each image; only the report and the summary use them.
        shards: Names of the shards, in the order of the chunks.
    """

    keys: pa.ChunkedArray
    splits: NDArray[np.uint8]
    sizes: pa.Table
    shards: Sequence[str]

    def __len__(self) -> int:
        return len(self.splits)

    def key(self, row: int) -> str:
        """Return the key of a row."""
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        key: str = self.keys.chunk(shard)[row - int(self._starts[shard])].as_py()
        return key

    def rows_of(self, split: str) -> int:
        """Return the number of images of a split."""
        return int(np.count_nonzero(self.are(split)))

    def are(self, *splits: str) -> NDArray[np.bool_]:
        """Return a mask (N,) of the images in any of these splits."""
        return np.isin(self.splits, [SPLITS.index(split) for split in splits])

    def find(self, shard: str, keys: pa.ChunkedArray) -> NDArray[np.int64]:
        """Return (n,) the rows of a shard's images by key; -1 for a key that the shard does not have."""
        if shard not in self._numbers:
            return np.full(len(keys), -1)
        number = self._numbers[shard]
        indices = pc.index_in(keys, value_set=self.keys.chunk(number))
        rows: NDArray[np.int64] = (
            indices.fill_null(-1 - int(self._starts[number])).to_numpy().astype(np.int64)
        )
        return rows + int(self._starts[number])

    def rows_in(self, number: int) -> range:
        """Return the rows of the shard with this number."""
        return range(int(self._starts[number]), int(self._starts[number + 1]))

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(len(chunk) for chunk in self.keys.chunks)], dtype=np.int64)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.shards)}


def split_places(splits: pa.ChunkedArray, where: Path) -> NDArray[np.uint8]:
    """Return the index of each split in `SPLITS`.

    Raises:
        DataError: a split is none of them.
    """
    indices = pc.index_in(splits, pa.array(SPLITS))
    if indices.null_count:
        unknown = splits.filter(pc.is_null(indices))[0].as_py()
        raise DataError(
            f"{where} holds split {unknown}; expected {', '.join(SPLITS)}; "
            "run `llm2clip forget download shards`"
        )
    return indices.to_numpy().astype(np.uint8)


class Thumbnails:
    """Thumbnails by row number, read from disk on demand.

    They are read, not memory-mapped: pages of a mapped file around each thumbnail would count as memory of
    the process until the system reclaims them.

    Args:
        paths: Files of thumbnails, in the order of the rows.
        counts: Number of rows in each file.
        lines: (N,) the line of each row in its file, which may have others.
        width: Bytes of a thumbnail.
    """

    def __init__(
        self, paths: Sequence[Path], counts: Sequence[int], lines: NDArray[np.int32], width: int
    ) -> None:
        self.paths, self.counts, self.lines, self.width = paths, counts, lines, width
        self._starts = np.cumsum([0, *counts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def save(self, folder: Path) -> None:
        """Write what `load` needs in another process; the thumbnails stay where they are."""
        write_json(folder / PLACES, [[str(path) for path in self.paths], list(self.counts), self.width])
        np.save(folder / LINES, self.lines)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the thumbnails that `save` wrote to a folder; the lines are mapped."""
        paths, counts, width = read_json(folder / PLACES)
        lines = np.load(folder / LINES, mmap_mode="r", allow_pickle=False)
        return cls([Path(path) for path in paths], counts, lines, width)

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Yield all thumbnails in turn, at most `BLOCK_ROWS` (n, width) at a time."""
        for path, start, end in zip(self.paths, self._starts, self._starts[1:], strict=False):
            whole = np.fromfile(path, np.uint8).reshape(-1, self.width)
            for first in range(start, end, BLOCK_ROWS):
                yield whole[self.lines[first : min(first + BLOCK_ROWS, end)]]

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the thumbnails (n, width) of row numbers (n,)."""
        thumbnails = np.empty((len(rows), self.width), np.uint8)
        files = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(files):
            indices = np.flatnonzero(files == number)
            with self.paths[number].open("rb", buffering=0) as file:
                for index, line in zip(indices, self.lines[rows[indices]].tolist(), strict=True):
                    file.seek(line * self.width)
                    file.readinto(memoryview(thumbnails[index]))
        return thumbnails
