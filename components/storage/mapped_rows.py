"""Read memory-mapped rows of many files as one array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

ROWS_AT_ONCE = 1 << 11


class MappedRows:
    """Rows (M, ...), such as vectors or images, of several files, numbered on from file to file.

    The embeddings of three captions each of three million images take 74 GB at 4,096 dimensions. That is more
    than the memory of a machine, and a batch needs only a few thousand of them.

    Args:
        parts: Memory-mapped arrays of equal shape, except for their length.
    """

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """(M, ...)."""
        return len(self), *self._parts[0].shape[1:]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Read the rows (B, ...) at indices (B,).

        Raises:
            IndexError: an index is below 0, or M or more.
        """
        import torch

        order = np.argsort(rows.numpy())  # so that each file is read once, from start to end
        indices = rows.numpy()[order]
        if len(indices) and not 0 <= indices[0] <= indices[-1] < len(self):
            raise IndexError(f"rows {indices[0]} to {indices[-1]}; expected 0 to {len(self) - 1}")
        values = np.empty((len(indices), *self.shape[1:]), self._parts[0].dtype)
        ends = np.searchsorted(indices, self._starts)
        for part, first, start, end in zip(self._parts, self._starts, ends, ends[1:], strict=False):
            if end > start:
                values[order[start:end]] = part[indices[start:end] - first]
        return torch.from_numpy(values)

    def whole(self) -> Tensor:
        """Read all rows (M, ...) into memory; for small arrays."""
        import torch

        return torch.from_numpy(np.concatenate(self._parts))

    def in_parts(self, rows: Tensor) -> Iterator[Tensor]:
        """Read the rows at indices (N,) in order, in parts of at most `ROWS_AT_ONCE`."""
        for part in rows.split(ROWS_AT_ONCE):
            yield self[part]
