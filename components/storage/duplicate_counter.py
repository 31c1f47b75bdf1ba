"""Count and find duplicate texts in bounded memory, with hashes on disk."""

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
    """Stores eight bytes per text: a short list in memory, a long list in one file per bucket.

    Args:
        folder: A folder for this counter only; the caller removes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buffer = array("Q")

    def add(self, text: str) -> None:
        """Add a text."""
        self._buffer.append(digest_of(text))
        if len(self._buffer) == DIGESTS_IN_MEMORY:
            self._spill()

    def add_all(self, digests: np.ndarray[Any, np.dtype[np.uint64]]) -> None:
        """Add many texts by their `digest_of` digests."""
        for start in range(0, len(digests), DIGESTS_IN_MEMORY):
            self._buffer.frombytes(digests[start : start + DIGESTS_IN_MEMORY].astype(np.uint64).tobytes())
            if len(self._buffer) >= DIGESTS_IN_MEMORY:
                self._spill()

    def distinct(self) -> int:
        """Return how many different texts were added."""
        if not self._folder.is_dir():
            return len(np.unique(np.frombuffer(self._buffer, dtype=np.uint64)))
        self._spill()
        return sum(len(np.unique(np.fromfile(path, dtype=np.uint64))) for path in self._folder.iterdir())

    def repeated(self) -> Repeated:
        """Return the digests that were added more than once."""
        if not self._folder.is_dir():
            return Repeated(_repeated(np.frombuffer(self._buffer, dtype=np.uint64)))
        self._spill()
        digests = array("Q")
        for path in sorted(self._folder.iterdir()):
            digests += _repeated(np.fromfile(path, dtype=np.uint64))
        return Repeated(digests)

    def _spill(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        values = np.sort(np.frombuffer(self._buffer, dtype=np.uint64))
        starts = np.searchsorted(values >> np.uint64(56), np.arange(BUCKETS + 1))
        for bucket in np.flatnonzero(np.diff(starts)):
            with (self._folder / f"{bucket:02x}").open("ab") as file:
                file.write(values[starts[bucket] : starts[bucket + 1]].tobytes())
        self._buffer = array("Q")


def _repeated(digests: np.ndarray[Any, np.dtype[np.uint64]]) -> array[int]:
    values, counts = np.unique(digests, return_counts=True)
    return array("Q", values[counts > 1].tobytes())


class Repeated:
    """Sorted digests of the texts that were added more than once; nine bytes each."""

    def __init__(self, digests: array[int]) -> None:
        self._digests = digests
        self._seen = bytearray(len(digests))

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, text: str) -> bool:
        return self._index(text) is not None

    def came_before(self, text: str) -> bool:
        """Return whether this method was called with the same text before."""
        index = self._index(text)
        if index is None:
            return False
        was_seen, self._seen[index] = bool(self._seen[index]), 1
        return was_seen

    def _index(self, text: str) -> int | None:
        digest = digest_of(text)
        index = bisect_left(self._digests, digest)
        return index if index < len(self._digests) and self._digests[index] == digest else None


def digest_of(text: str) -> int:
    """Return an eight-byte hash; among a billion texts, two share one with a probability of 3 %."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest(), "big")
