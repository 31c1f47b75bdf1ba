"""Find each image's first duplicate by difference hash, then by thumbnail where hashes are close."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.audit.images import Thumbnails

Rows = NDArray[np.int64]
HASH_BLOCK = 512  # images compared together
PAIRS_AT_ONCE = 1 << 18  # pairs of hashes: two megabytes, which fit into the CPU cache
FIRST_CANDIDATES = 64
NONE = -1


@dataclass(frozen=True)
class Alike:
    """Limits below which images look the same: `Audit.near_duplicate_bits`, `near_duplicate_difference`."""

    bits: int
    difference: float


class ImageComparison:
    """Compare hashes, and thumbnails where hashes are close."""

    def __init__(self, hashes: NDArray[np.uint64], thumbnails: Thumbnails, alike: Alike) -> None:
        self._hashes, self._thumbnails, self._alike = hashes, thumbnails, alike
        self.compared = 0

    def first_earlier(self, rows: Rows, candidates: Rows) -> Rows:
        """Return for each row the first candidate before it that looks the same, or `NONE`."""
        return self._first_alike(rows, candidates, is_earlier=True)

    def first(self, rows: Rows, candidates: Rows) -> Rows:
        """Return for each row the first candidate that looks the same, or `NONE`; both ascending."""
        return self._first_alike(rows, candidates, is_earlier=False)

    def _first_alike(self, rows: Rows, candidates: Rows, *, is_earlier: bool) -> Rows:
        hashes = self._hashes[candidates]
        parts = [np.empty(0, np.int64)]
        for start in range(0, len(rows), HASH_BLOCK):
            block = rows[start : start + HASH_BLOCK]
            end = int(np.searchsorted(candidates, block[-1])) if is_earlier else len(candidates)
            parts.append(
                self._first_alike_in_block(block, candidates[:end], hashes[:end], is_earlier=is_earlier)
            )
        return np.concatenate(parts)

    def _first_alike_in_block(
        self, rows: Rows, candidates: Rows, hashes: NDArray[np.uint64], *, is_earlier: bool
    ) -> Rows:
        first = np.full(len(rows), NONE)
        row_hashes = self._hashes[rows]
        pending, start, count = np.arange(len(rows)), 0, FIRST_CANDIDATES
        while start < len(candidates):
            chunk, chunk_hashes = candidates[start : start + count], hashes[start : start + count]
            if is_earlier:
                pending = pending[rows[pending] > chunk[0]]
            if not len(pending):
                break
            close = np.bitwise_count(row_hashes[pending][:, None] ^ chunk_hashes) <= self._alike.bits
            if is_earlier and chunk[-1] >= rows[pending[0]]:
                close &= chunk < rows[pending][:, None]
            self.compared += close.size
            # faster than a two-dimensional nonzero
            row_index, candidate_index = np.divmod(np.flatnonzero(close), len(chunk))
            self._confirm(first, rows, pending[row_index], chunk[candidate_index])
            pending = pending[first[pending] == NONE]
            start, count = start + count, max(FIRST_CANDIDATES, PAIRS_AT_ONCE // max(1, len(pending)))
        return first

    def _confirm(self, first: Rows, rows: Rows, indices: Rows, candidates: Rows) -> None:
        """Set for each index its first candidate with the same thumbnail; try its candidates in order."""
        while len(indices):
            is_next = np.concatenate([[True], indices[1:] != indices[:-1]])
            index, candidate = indices[is_next], candidates[is_next]
            self.compared += len(index)
            difference = differences(self._thumbnails.take(rows[index]), self._thumbnails.take(candidate))
            same = difference <= self._alike.difference
            first[index[same]] = candidate[same]
            is_pending = ~is_next & (first[indices] == NONE)
            indices, candidates = indices[is_pending], candidates[is_pending]


def differences(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the root mean square difference in grey levels, which weighs an object more than noise.

    Args:
        first: Thumbnails (n, 768).
        second: Thumbnails (n, 768).
    """
    gap = first.astype(np.float32) - second
    return np.sqrt(np.square(gap).mean(axis=1, dtype=np.float32))
