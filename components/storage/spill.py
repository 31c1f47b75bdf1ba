"""Keep the objects of one run on disk: in files by name, sorted by the hash of a text, or by a number.

Memory holds one file's objects at a time, and a buffer. Files are pickles, written and read by one run.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Generic, TypeVar

from components.storage.atomic import remove

K = TypeVar("K", bytes, int)
T = TypeVar("T")
OBJECTS_IN_MEMORY = 50_000
DIGEST_BYTES = 16


class Spill(Generic[T]):
    """Objects in files by name, in the order in which they were added.

    Args:
        folder: A folder for this object only; `discard` removes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buffer: dict[str, list[T]] = {}
        self._buffered = 0
        remove(folder)

    def add(self, name: str, value: T) -> None:
        """Add an object to a file."""
        self._buffer.setdefault(name, []).append(value)
        self._buffered += 1
        if self._buffered >= OBJECTS_IN_MEMORY:
            self._write()

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""
        on_disk = {path.name for path in self._folder.iterdir()} if self._folder.is_dir() else set()
        return sorted(on_disk | self._buffer.keys())

    def read(self, name: str) -> Iterator[T]:
        """Yield the objects of a file, in order; none if nothing was added to it."""
        path = self._folder / name
        if path.is_file():
            with path.open("rb") as file:
                while file.peek(1):
                    yield from pickle.load(file)  # noqa: S301 - written by this run
        yield from self._buffer.get(name, [])

    def discard(self) -> None:
        """Remove all files."""
        self._buffer, self._buffered = {}, 0
        remove(self._folder)

    def _write(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, values in self._buffer.items():
            with (self._folder / name).open("ab") as file:
                pickle.dump(values, file, pickle.HIGHEST_PROTOCOL)
        self._buffer, self._buffered = {}, 0


class _Sorter(Generic[K, T]):
    """Objects sorted by a key; files by name, in the order of the names, hold ascending keys.

    Args:
        folder: A folder for this object only; `discard` removes it.
    """

    def __init__(self, folder: Path) -> None:
        self._spill: Spill[tuple[K, T]] = Spill(folder)

    def pairs(self) -> Iterator[tuple[K, T]]:
        """Yield keys and objects, in the order of the keys; of equal keys, in the order added."""
        for name in self._spill.names():
            yield from sorted(self._spill.read(name), key=itemgetter(0))

    def discard(self) -> None:
        """Remove all files."""
        self._spill.discard()


class HashSorter(_Sorter[bytes, T]):
    """Objects sorted by the hash of a text that comes with each."""

    def add(self, text: str, value: T) -> None:
        """Add an object."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
        self._spill.add(f"{digest[0]:02x}", (digest, value))

    def __iter__(self) -> Iterator[tuple[bytes, T]]:
        """Yield hash and object, in the order of the hashes; of equal hashes, in the order added."""
        return self.pairs()


class NumberSorter(_Sorter[int, T]):
    """Objects sorted by a number that comes with each; two objects have different numbers."""

    def add(self, number: int, value: T) -> None:
        """Add an object."""
        self._spill.add(f"{number // OBJECTS_IN_MEMORY:09d}", (number, value))

    def __iter__(self) -> Iterator[T]:
        """Yield the objects in the order of their numbers."""
        return (value for _, value in self.pairs())
