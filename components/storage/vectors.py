"""Rows of many files as one: mapped from disk, so that memory holds only what is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

ROWS_AT_ONCE = 1 << 11


class Vectors:
    """Vectors (M, d) of several files; row numbers go on from file to file.

    Three million images with three captions each are 74 GB at 4,096 dimensions: more than a machine has
    memory for, and a batch wants a few thousand of them.

    Args:
        parts: At least one, of equal width, as safetensors opens them: mapped, not read.
    """

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def shape(self) -> tuple[int, int]:
        """(M, d)."""
        return len(self), self._parts[0].shape[1]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Read the vectors (B, d) fp16 of row numbers (B,).

        Raises:
            IndexError: a number is below 0, or M or more.
        """
        import torch

        order = rows.argsort()  # each file is read in one go, from its start to its end
        ordered = rows[order]
        if len(rows) and not 0 <= int(ordered[0]) <= int(ordered[-1]) < len(self):
            raise IndexError(f"rows {int(ordered[0])} to {int(ordered[-1])}; expected 0 to {len(self) - 1}")
        ends = torch.searchsorted(ordered, torch.from_numpy(self._starts[1:]))
        found = torch.empty(len(rows), self.shape[1], dtype=self._parts[0].dtype)
        start = 0
        for number, end in enumerate(ends.tolist()):
            if end > start:
                found[order[start:end]] = self._parts[number][ordered[start:end] - int(self._starts[number])]
            start = end
        return found

    def whole(self) -> Tensor:
        """Read all (M, d), where they are few."""
        import torch

        return torch.cat(list(self._parts))

    def in_parts(self, rows: Tensor) -> Iterator[Tensor]:
        """Read the vectors of row numbers (N,) in their order, some at a time."""
        for part in rows.split(ROWS_AT_ONCE):
            yield self[part]
