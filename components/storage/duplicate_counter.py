"""Count duplicates in a long list on disk, in bounded memory."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np

BUCKETS = 256  # by the first byte of a digest
DIGESTS_IN_MEMORY = 1 << 16
DIGEST_BYTES = 8


class DuplicateCounter:
    """Eight bytes a text: the first ones in memory, a long list's in files of one bucket each.

    Args:
        folder: To work in, of its own; removed by whoever gave it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._new = array("Q")

    def add(self, text: str) -> None:
        """Take note of a text."""
        self._new.append(digest_of(text))
        if len(self._new) == DIGESTS_IN_MEMORY:
            self._spill()

    def add_all(self, digests: np.ndarray[Any, np.dtype[np.uint64]]) -> None:
        """Take note of many texts by what `digest_of` made of them."""
        for start in range(0, len(digests), DIGESTS_IN_MEMORY):
            self._new.frombytes(digests[start : start + DIGESTS_IN_MEMORY].astype(np.uint64).tobytes())
            if len(self._new) >= DIGESTS_IN_MEMORY:
                self._spill()

    def distinct(self) -> int:
        """Return how many different texts were added."""
        if not self._folder.is_dir():
            return len(np.unique(np.frombuffer(self._new, dtype=np.uint64)))
        self._spill()
        return sum(len(np.unique(np.fromfile(path, dtype=np.uint64))) for path in self._folder.iterdir())

    def repeated(self) -> Repeated:
        """Return the digests that were added more than once."""
        if not self._folder.is_dir():
            return Repeated(_repeated(np.frombuffer(self._new, dtype=np.uint64)))
        self._spill()
        found = array("Q")
        for path in sorted(self._folder.iterdir()):
            found += _repeated(np.fromfile(path, dtype=np.uint64))
        return Repeated(found)

    def _spill(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        values = np.sort(np.frombuffer(self._new, dtype=np.uint64))
        starts = np.searchsorted(values >> np.uint64(56), np.arange(BUCKETS + 1))
        for bucket in np.flatnonzero(np.diff(starts)):
            with (self._folder / f"{bucket:02x}").open("ab") as file:
                file.write(values[starts[bucket] : starts[bucket + 1]].tobytes())
        self._new = array("Q")


def _repeated(digests: np.ndarray[Any, np.dtype[np.uint64]]) -> array[int]:
    values, counts = np.unique(digests, return_counts=True)
    return array("Q", values[counts > 1].tobytes())


class Repeated:
    """The digests that several texts share, sorted; nine bytes each."""

    def __init__(self, digests: array[int]) -> None:
        self._digests = digests
        self._seen = bytearray(len(digests))

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, text: str) -> bool:
        return self._place(text) is not None

    def came_before(self, text: str) -> bool:
        """Say whether this was asked of the same text before."""
        place = self._place(text)
        if place is None:
            return False
        before, self._seen[place] = bool(self._seen[place]), 1
        return before

    def _place(self, text: str) -> int | None:
        digest = digest_of(text)
        place = bisect_left(self._digests, digest)
        return place if place < len(self._digests) and self._digests[place] == digest else None


def digest_of(text: str) -> int:
    """Return eight bytes of a hash; among a billion texts two share one with a chance of 3 %."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest(), "big")
