"""All images in one order: a few bytes of each in memory, thumbnails on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.errors import DataError

LEARNED = ("train", "validation")  # what the models or the choices among them have seen
SPLITS = (*LEARNED, "test")
SIZES = ("width", "height", "bytes")


@dataclass(frozen=True)
class AuditImages:
    """Keys, splits and sizes by row number; about 50 bytes an image.

    Attributes:
        keys: One chunk a shard.
        splits: (N,) places in `SPLITS`.
        sizes: `SIZES` of each; only the report and the summary look at them.
        shards: Names, in the order of the chunks.
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
        """Return how many images a split has."""
        return int(np.count_nonzero(self.are(split)))

    def are(self, *splits: str) -> NDArray[np.bool_]:
        """Return (N,) which images are of one of these splits."""
        return np.isin(self.splits, [SPLITS.index(split) for split in splits])

    def find(self, shard: str, keys: pa.ChunkedArray) -> NDArray[np.int64]:
        """Return (n,) the rows of a shard's images by key; -1 where the shard has no such image."""
        if shard not in self._numbers:
            return np.full(len(keys), -1)
        number = self._numbers[shard]
        places = pc.index_in(keys, value_set=self.keys.chunk(number))
        found: NDArray[np.int64] = (
            places.fill_null(-1 - int(self._starts[number])).to_numpy().astype(np.int64)
        )
        return found + int(self._starts[number])

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
    """Return the place of each split in `SPLITS`.

    Raises:
        DataError: one is none of them.
    """
    places = pc.index_in(splits, pa.array(SPLITS))
    if places.null_count:
        odd = splits.filter(pc.is_null(places))[0].as_py()
        raise DataError(
            f"{where} holds split {odd}; expected {', '.join(SPLITS)}: `llm2clip forget download shards`"
        )
    return places.to_numpy().astype(np.uint8)


class Thumbnails:
    """Thumbnails by row number, read from disk where they are asked for.

    They are read and not mapped: the pages of a mapped file around each thumbnail would count as memory of
    the process until the system wants them back.

    Args:
        paths: Of files of one thumbnail after the other, in the order of the rows.
        counts: Thumbnails of each.
        width: Bytes of a thumbnail.
    """

    def __init__(self, paths: Sequence[Path], counts: Sequence[int], width: int) -> None:
        self.paths, self.width = paths, width
        self._starts = np.cumsum([0, *counts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def whole_files(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the thumbnails (n, width) of one file after the other."""
        for path in self.paths:
            yield np.fromfile(path, np.uint8).reshape(-1, self.width)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return (n, width) of row numbers (n,)."""
        found = np.empty((len(rows), self.width), np.uint8)
        files = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(files):
            places = np.flatnonzero(files == number)
            with self.paths[number].open("rb", buffering=0) as file:
                for place, row in zip(places, (rows[places] - self._starts[number]).tolist(), strict=True):
                    file.seek(row * self.width)
                    file.readinto(memoryview(found[place]))
        return found
