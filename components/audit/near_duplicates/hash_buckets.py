"""Bucket images by coarse thumbnails, so that near duplicates lie in adjacent buckets.

Two thumbnails differ, root mean square, by no less than any contrast of them does: their mean brightness,
that of upper and lower half apart, and so on (orthonormal directions: Bessel's inequality).
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from components.audit.images import Thumbnails
from components.audit.near_duplicates.fingerprints import THUMBNAIL_SIDE

Rows = NDArray[np.int64]
MIN_CELL_ROWS = 32  # on average; more cells would cost more than they spare
MIN_CELL_WIDTH = 1.0  # grey levels; then the ids of cells by all contrasts stay below 2**63
ROUNDING = 1e-3  # grey levels
CHUNK_ROWS = 1 << 12  # thumbnails multiplied at once


class HashBuckets:
    """Rows by cell.

    Attributes:
        order: (N,) rows, cell by cell, in a cell by number.
        starts: (M + 1,) where in `order` each cell begins.
    """

    def __init__(self, contrasts: NDArray[np.float32], difference: float) -> None:
        width = max(difference + ROUNDING, MIN_CELL_WIDTH)
        numbers = np.zeros(len(contrasts), np.int64)
        self.ids: NDArray[np.int64] = np.zeros(min(1, len(contrasts)), np.int64)
        self._strides: list[int] = []
        for contrast in contrasts.T:
            places = np.floor(contrast / width).astype(np.int64)
            places += 1 - places.min(initial=0)  # from 1, so that there is one below
            stride = int(places.max(initial=0)) + 2
            finer = numbers * stride + places
            ids = np.unique(finer)
            if self._strides and len(ids) * MIN_CELL_ROWS > len(contrasts):
                break
            numbers, self.ids = finer, ids
            self._strides = [one * stride for one in self._strides] + [1]
        self.order: Rows = np.argsort(numbers, kind="stable")
        places = np.searchsorted(self.ids, numbers)
        self.starts: Rows = np.concatenate([[0], np.cumsum(np.bincount(places, minlength=len(self.ids)))])

    def neighbours(self) -> NDArray[np.int64]:
        """Return (S,) what is added to a cell's id to come to each beside it, but for the last contrast's."""
        steps = product((-1, 0, 1), repeat=max(0, len(self._strides) - 1))
        return np.array(
            [sum(map(int.__mul__, step, self._strides)) for step in steps], np.int64
        )  # the last stride is 1: three cells side by side


def contrasts_of(thumbnails: Thumbnails) -> NDArray[np.float32]:
    """Return (N, 7): the length of each thumbnail along orthonormal directions, over the square root of 768.

    Whole numbers below 2**24 are exact in float32, so nothing depends on the order of the sum.
    """
    directions = _directions()  # (768, 7)
    lengths = np.sqrt(np.square(directions).sum(axis=0) * len(directions))
    found = np.empty((len(thumbnails), directions.shape[1]), np.float32)
    start = 0
    for rows in thumbnails.whole_files():
        for first in range(0, len(rows), CHUNK_ROWS):
            part = rows[first : first + CHUNK_ROWS]
            found[start : start + len(part)] = part.astype(np.float32) @ directions / lengths
            start += len(part)
    return found


def _directions() -> NDArray[np.float32]:
    """Return brightness, upper against lower half, left against right, red against blue, middle, green."""
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
