"""Spool pictures of a shard in a nameless file: little memory, nothing left after a crash."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Place:
    """Where a picture lies, in bytes."""

    offset: int
    size: int


class Spool:
    """Keeps pictures in the order they come and gives them back in any.

    Args:
        folder: Decides the disk; nothing is seen in it.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, data: bytes) -> Place:
        """Keep a picture."""
        place = Place(self._size, len(data))
        self._file.write(data)
        self._size += len(data)
        return place

    def get(self, place: Place) -> bytes:
        """Return a picture."""
        self._file.flush()
        return os.pread(self._file.fileno(), place.size, place.offset)
