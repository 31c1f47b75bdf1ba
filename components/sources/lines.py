"""Read the lines of a text file, packed or not."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

from components.errors import DataError

MAX_LINE_BYTES = 10_000_000
BOM = b"\xef\xbb\xbf"


@contextmanager
def open_lines(path: Path) -> Iterator[Lines]:
    """Open a file of UTF-8 lines, packed by gzip if its name ends in .gz."""
    with path.open("rb") as file:
        yield Lines(path, gzip.GzipFile(fileobj=file) if path.suffix.lower() == ".gz" else file)


class Lines:
    """Decodes lines, counts them from 1, and puts those that are no UTF-8 aside."""

    def __init__(self, path: Path, file: BufferedIOBase) -> None:
        self.path, self.number, self.bad = path, 0, list[int]()
        self._file = file

    def __iter__(self) -> Iterator[str]:
        while data := self._read():
            self.number += 1
            data = data.removeprefix(BOM) if self.number == 1 else data
            data = data.removesuffix(b"\n").removesuffix(b"\r")
            try:
                yield data.decode()
            except UnicodeDecodeError:
                self.bad.append(self.number)
                yield data.decode(errors="replace")  # a quote in it counts all the same

    def _read(self) -> bytes:
        try:
            data = self._file.readline(MAX_LINE_BYTES + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(
                f"{self.path} is cut or damaged after {self.number} lines ({error}); fetch it again"
            ) from None
        if len(data) > MAX_LINE_BYTES:
            raise DataError(
                f"{self.path} line {self.number + 1} is longer than {MAX_LINE_BYTES} bytes; expected a row"
            )
        return data
