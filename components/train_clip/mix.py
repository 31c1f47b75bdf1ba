"""Draw a caption column by weight, then one of its captions."""

from __future__ import annotations

import torch
from torch import Tensor


class CaptionMix:
    """Draws captions for rows.

    Args:
        counts: (N, C) captions of each row in each column; they are numbered row by row, column by column.
        weights: (C,) of the columns; renormalised over those a row has. Each row has one of weight above 0.
    """

    def __init__(self, counts: Tensor, weights: Tensor) -> None:
        self.counts = counts
        flat = counts.flatten()
        self.first = (flat.cumsum(0) - flat).view_as(counts)  # (N, C) number of the first caption
        shares = (counts > 0) * weights.double()
        self.edges = (shares / shares.sum(dim=1, keepdim=True)).cumsum(dim=1)  # (N, C)

    def draw(self, rows: Tensor) -> Tensor:
        """Return a caption number (B,) for each of the rows (B,), by torch's global generator."""
        edges = self.edges[rows]
        spot = (
            torch.rand(len(rows), 1, dtype=torch.double) * edges[:, -1:]
        )  # the last edge is 1 but for rounding
        column = torch.searchsorted(edges, spot, right=True).clamp(max=edges.shape[1] - 1)[:, 0]
        count = self.counts[rows, column]
        number = (torch.rand(len(rows), dtype=torch.double) * count).long()
        return self.first[rows, column] + number
