"""Compare difference hashes, then thumbnails of near ones, to find each image's first duplicate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.audit.images import Thumbnails

Rows = NDArray[np.int64]
HASH_BLOCK = 512  # images looked at together
PAIRS_AT_ONCE = 1 << 18  # of hashes: two megabytes, which stay in the cache
FIRST_CANDIDATES = 64
NONE = -1


@dataclass(frozen=True)
class Alike:
    """What looks the same: see `Audit.near_duplicate_bits` and `near_duplicate_difference`."""

    bits: int
    difference: float


class ImageComparison:
    """Compares hashes, and thumbnails where hashes are close."""

    def __init__(self, hashes: NDArray[np.uint64], thumbnails: Thumbnails, alike: Alike) -> None:
        self._hashes, self._thumbnails, self._alike = hashes, thumbnails, alike
        self.compared = 0

    def first_earlier(self, rows: Rows, candidates: Rows) -> Rows:
        """Return for each row the first candidate before it that looks the same, or `NONE`."""
        return self._firsts(rows, candidates, is_earlier=True)

    def first(self, rows: Rows, candidates: Rows) -> Rows:
        """Return for each row the first candidate that looks the same, or `NONE`; both ascending."""
        return self._firsts(rows, candidates, is_earlier=False)

    def _firsts(self, rows: Rows, candidates: Rows, *, is_earlier: bool) -> Rows:
        hashes = self._hashes[candidates]
        parts = [np.empty(0, np.int64)]
        for start in range(0, len(rows), HASH_BLOCK):
            block = rows[start : start + HASH_BLOCK]
            end = int(np.searchsorted(candidates, block[-1])) if is_earlier else len(candidates)
            parts.append(self._of_block(block, candidates[:end], hashes[:end], is_earlier=is_earlier))
        return np.concatenate(parts)

    def _of_block(
        self, rows: Rows, candidates: Rows, hashes: NDArray[np.uint64], *, is_earlier: bool
    ) -> Rows:
        found = np.full(len(rows), NONE)
        own = self._hashes[rows]
        left, start, count = np.arange(len(rows)), 0, FIRST_CANDIDATES
        while start < len(candidates):
            some, theirs = candidates[start : start + count], hashes[start : start + count]
            if is_earlier:
                left = left[rows[left] > some[0]]
            if not len(left):
                break
            close = np.bitwise_count(own[left][:, None] ^ theirs) <= self._alike.bits
            if is_earlier and some[-1] >= rows[left[0]]:
                close &= some < rows[left][:, None]
            self.compared += close.size
            one, other = np.divmod(np.flatnonzero(close), len(some))  # faster than nonzero of two dimensions
            self._confirm(found, rows, left[one], some[other])
            left = left[found[left] == NONE]
            start, count = start + count, max(FIRST_CANDIDATES, PAIRS_AT_ONCE // max(1, len(left)))
        return found

    def _confirm(self, found: Rows, rows: Rows, places: Rows, candidates: Rows) -> None:
        """Note for each place the first of its candidates whose thumbnail is the same, each tried in turn."""
        while len(places):
            is_next = np.concatenate([[True], places[1:] != places[:-1]])
            place, candidate = places[is_next], candidates[is_next]
            self.compared += len(place)
            gap = differences(self._thumbnails.take(rows[place]), self._thumbnails.take(candidate))
            same = gap <= self._alike.difference
            found[place[same]] = candidate[same]
            rest = ~is_next & (found[places] == NONE)
            places, candidates = places[rest], candidates[rest]


def differences(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the root mean square difference in grey levels: an object weighs more than noise does.

    Args:
        first: Thumbnails (n, 768).
        second: As many.
    """
    gap = first.astype(np.float32) - second
    return np.sqrt(np.square(gap).mean(axis=1, dtype=np.float32))
