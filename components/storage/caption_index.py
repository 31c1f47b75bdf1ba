"""Index of caption lines by key, as arrays for tens of millions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


@dataclass(frozen=True)
class ColumnLines:
    """The captions of one column.

    Attributes:
        keys: (K,) those that have any, each once; with 64-bit offsets, for they may be more than 2 GB.
        first: (K,) where the captions of each begin in `rows`.
        counts: (K,) how many they are.
        rows: (N,) the vector of each caption, those of a key in the order of their numbers.
    """

    keys: pa.LargeStringArray
    first: NDArray[np.int64]
    counts: NDArray[np.int64]
    rows: NDArray[np.int64]


def column_lines(table: pa.Table, column: str) -> ColumnLines:
    """Take the lines of a column from the table of `storage.embeddings.Embeddings`."""
    found = table.filter(pc.equal(table["column"], column))
    of_line = found["key"].cast(pa.large_string())
    keys = pc.unique(of_line)
    order, counts = by_key(of_line, found["number"], keys)
    return ColumnLines(keys, np.cumsum(counts) - counts, counts, found["row"].to_numpy()[order])


def by_key(
    of_line: pa.ChunkedArray, number: pa.ChunkedArray, keys: pa.Array
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the order of lines by key, as `keys` has them, and number; and how many each key has: (K,)."""
    place = pc.index_in(of_line, value_set=keys).to_numpy()
    return np.lexsort((number.to_numpy(), place)), np.bincount(place, minlength=len(keys))
