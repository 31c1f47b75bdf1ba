"""Bucket images by coarse features of their thumbnails, so that near duplicates lie in adjacent buckets.

A contrast is the projection of a thumbnail on one of several orthonormal directions: mean brightness, upper
minus lower half, and so on. The root mean square difference of two thumbnails is at least their difference in
any contrast (Bessel's inequality).
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from components.audit.images import Thumbnails
from components.audit.near_duplicates.fingerprints import THUMBNAIL_SIDE

Rows = NDArray[np.int64]
MIN_CELL_ROWS = 32  # on average; more cells would cost more than they save
MIN_CELL_WIDTH = 1.0  # grey levels; keeps cell ids over all contrasts below 2**63
ROUNDING = 1e-3  # grey levels


class HashBuckets:
    """Rows grouped by cell.

    Attributes:
        ids: (M,) sorted ids of the cells.
        order: (N,) row numbers, cell by cell, ascending within a cell.
        starts: (M + 1,) offset in `order` of each cell.
    """

    def __init__(self, contrasts: NDArray[np.float32], difference: float) -> None:
        width = max(difference + ROUNDING, MIN_CELL_WIDTH)
        cell_ids = np.zeros(len(contrasts), np.int64)
        self.ids: NDArray[np.int64] = np.zeros(min(1, len(contrasts)), np.int64)
        self._strides: list[int] = []
        for contrast in contrasts.T:
            indices = np.floor(contrast / width).astype(np.int64)
            indices += 1 - indices.min(initial=0)  # from 1, so that each index has a lower neighbour
            stride = int(indices.max(initial=0)) + 2
            finer = cell_ids * stride + indices
            ids = np.unique(finer)
            if self._strides and len(ids) * MIN_CELL_ROWS > len(contrasts):
                break
            cell_ids, self.ids = finer, ids
            self._strides = [coarser * stride for coarser in self._strides] + [1]
        self.order: Rows = np.argsort(cell_ids, kind="stable")
        indices = np.searchsorted(self.ids, cell_ids)
        self.starts: Rows = np.concatenate([[0], np.cumsum(np.bincount(indices, minlength=len(self.ids)))])

    def neighbours(self) -> NDArray[np.int64]:
        """Return (S,) the id offsets of adjacent cells over all contrasts but the last."""
        steps = product((-1, 0, 1), repeat=max(0, len(self._strides) - 1))
        return np.array(
            [sum(map(int.__mul__, step, self._strides)) for step in steps], np.int64
        )  # the last stride is 1: its neighbours have consecutive ids


def contrasts_of(thumbnails: Thumbnails) -> NDArray[np.float32]:
    """Return (N, 7): each thumbnail's projection on orthonormal directions, over the square root of 768.

    Integers below 2**24 are exact in float32, so the result does not depend on the order of the sum.
    """
    directions = _directions()  # (768, 7)
    lengths = np.sqrt(np.square(directions).sum(axis=0) * len(directions))
    contrasts = np.empty((len(thumbnails), directions.shape[1]), np.float32)
    start = 0
    for block in thumbnails.blocks():
        contrasts[start : start + len(block)] = block.astype(np.float32) @ directions / lengths
        start += len(block)
    return contrasts


def _directions() -> NDArray[np.float32]:
    """Return (768, 7): brightness, upper/lower half, left/right, red/blue, middle rows, columns, green."""
    y, x, channel = np.indices((THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3))
    half, quarter = THUMBNAIL_SIDE // 2, THUMBNAIL_SIDE // 4
    patterns = [
        np.ones_like(y),
        np.where(y < half, 1, -1),
        np.where(x < half, 1, -1),
        np.array([1, 0, -1])[channel],
        np.where((y >= quarter) & (y < half + quarter), 1, -1),
        np.where((x >= quarter) & (x < half + quarter), 1, -1),
        np.array([1, -2, 1])[channel],
    ]
    return np.stack([pattern.reshape(-1) for pattern in patterns], axis=1).astype(np.float32)
