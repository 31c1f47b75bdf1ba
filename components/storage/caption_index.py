"""Index the caption lines of one column by key, in arrays that hold tens of millions."""

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
        keys: (K,) keys that have captions, each once; with 64-bit offsets, because they may exceed 2 GB.
        first: (K,) index in `rows` of the first caption of each key.
        counts: (K,) number of captions of each key.
        rows: (N,) vector row of each caption; the captions of a key are in the order of their numbers.
    """

    keys: pa.LargeStringArray
    first: NDArray[np.int64]
    counts: NDArray[np.int64]
    rows: NDArray[np.int64]


def column_lines(table: pa.Table, column: str) -> ColumnLines:
    """Index the captions of a column in the table of `storage.embeddings.Embeddings`."""
    lines = table.filter(pc.equal(table["column"], column))
    line_keys = lines["key"].cast(pa.large_string())
    keys = pc.unique(line_keys)
    order, counts = by_key(line_keys, lines["number"], keys)
    return ColumnLines(keys, np.cumsum(counts) - counts, counts, lines["row"].to_numpy()[order])


def by_key(
    of_line: pa.ChunkedArray, number: pa.ChunkedArray, keys: pa.Array
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the order of lines by key (as in `keys`) and number, and the line count of each key (K,)."""
    index = pc.index_in(of_line, value_set=keys).to_numpy()
    return np.lexsort((number.to_numpy(), index)), np.bincount(index, minlength=len(keys))
