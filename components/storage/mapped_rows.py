"""Memory-mapped rows of many files as one array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

ROWS_AT_ONCE = 1 << 11


class MappedRows:
    """Rows (M, ...), such as vectors or images, of several files; their numbers go on from file to file.

    The embeddings of three captions each of three million images are 74 GB at 4,096 dimensions: more than a
    machine has memory for, and a batch wants a few thousand of them.

    Args:
        parts: Of equal shape but for their length; mapped, not read.
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
        """Read the rows (B, ...) of some numbers (B,).

        Raises:
            IndexError: a number is below 0, or M or more.
        """
        import torch

        order = np.argsort(rows.numpy())  # each file is read in one go, from its start to its end
        wanted = rows.numpy()[order]
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < len(self):
            raise IndexError(f"rows {wanted[0]} to {wanted[-1]}; expected 0 to {len(self) - 1}")
        found = np.empty((len(wanted), *self.shape[1:]), self._parts[0].dtype)
        ends = np.searchsorted(wanted, self._starts)
        for part, first, start, end in zip(self._parts, self._starts, ends, ends[1:], strict=False):
            if end > start:
                found[order[start:end]] = part[wanted[start:end] - first]
        return torch.from_numpy(found)

    def whole(self) -> Tensor:
        """Read all (M, ...), where they are few."""
        import torch

        return torch.from_numpy(np.concatenate(self._parts))

    def in_parts(self, rows: Tensor) -> Iterator[Tensor]:
        """Read the rows of some numbers (N,) in their order, some at a time."""
        for part in rows.split(ROWS_AT_ONCE):
            yield self[part]
