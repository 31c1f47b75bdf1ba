"""Spool the images of a shard in an unnamed temporary file: little memory, nothing left after a crash."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class SpoolRange:
    """Offset and size of an image in the spool, in bytes."""

    offset: int
    size: int


class Spool:
    """Write images in any order of arrival and read them back in any other.

    Args:
        folder: Selects the disk; no file appears in it.
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

    def put(self, data: bytes) -> SpoolRange:
        """Write an image and return where it lies."""
        image_range = SpoolRange(self._size, len(data))
        self._file.write(data)
        self._size += len(data)
        return image_range

    def get(self, image_range: SpoolRange) -> bytes:
        """Read an image."""
        self._file.flush()
        return os.pread(self._file.fileno(), image_range.size, image_range.offset)
