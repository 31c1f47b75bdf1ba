"""Read text tables: csv and tsv, with or without a header line, and JSON lines.

A tsv is split on line feeds, then on tabs, and quotes in it have no meaning: other readers lose rows at an
unbalanced quote or split a caption at a Unicode line separator. In a csv quotes have a meaning, so a quoted
field that merges rows stops the stage. Fields are plain text here; `values.captions_of` decides which texts
are lists of captions.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import Any

from components.errors import ConfigurationError, DataError
from components.sources.records import Record, check_columns

HEADER_WORDS = frozenset(
    {"alt", "caption", "file", "file_name", "filename", "id", "image", "image_path", "image_url", "key"}
    | {"path", "split", "text", "title", "url"}
)

Fields = tuple[int, list[str] | None]  # line number; None: not UTF-8
MAX_LINE_BYTES = 10_000_000
BOM = b"\xef\xbb\xbf"
ADDRESS = "://"
FILE = re.compile(r"\w\.[a-z]\w{1,3}$", re.IGNORECASE | re.ASCII)  # ends like cat.jpg


def read_text(path: Path, wanted: Sequence[str], names: Sequence[str] | None) -> Iterator[Record]:
    """Yield the records of a csv or tsv.

    Args:
        path: A UTF-8 file, packed by gzip if its name ends in .gz.
        wanted: The columns to take.
        names: Column names, if the file has no header line.

    Raises:
        ConfigurationError: a column is missing, or a header line is present where none is expected, or
            missing where one is expected.
        DataError: there is no line, the file is cut or broken, or a quoted field merges rows.
    """
    with open_lines(path) as lines:
        is_csv = path.name.lower().removesuffix(".gz").endswith(".csv")
        rows = _csv_rows(path, lines, len(names or ())) if is_csv else _tsv_rows(lines)
        header, rows = _header(path, rows, wanted, names)
        indices = {column: header.index(column) for column in wanted}
        for line, fields in rows:
            where = f"{path.name} line {line}"
            if fields is None:
                yield Record(where, {}, "bad_utf8")
            elif len(fields) != len(header):
                yield Record(where, {}, "wrong_field_count")
            else:
                yield Record(where, {column: fields[index] for column, index in indices.items()})


def _header(
    path: Path, rows: Iterator[Fields], wanted: Sequence[str], names: Sequence[str] | None
) -> tuple[list[str], Iterator[Fields]]:
    """Return the column names and the remaining rows."""
    first = next(rows, None)
    if first is None or (names is None and first[1] is None):
        expected = "a line of column names" if names is None else "rows"
        raise DataError(f"{path} has no {expected.removeprefix('a ')}; expected {expected}, in UTF-8")
    fields = first[1] or []
    if names is None:
        hint = "if that is a row, list the names in columns" if _looks_like_row(fields) else ""
        check_columns(path, fields, wanted, hint)
        return fields, rows
    check_columns(path, list(names), wanted)
    if _looks_like_header(fields, names):
        raise ConfigurationError(
            f"{path} begins with a line of column names ({', '.join(fields)}), and params name the columns "
            "too; expected rows only: set columns of its source to null, or remove the line"
        )
    return list(names), chain([first], rows)


def _looks_like_row(fields: Sequence[str]) -> bool:
    return any("://" in field or len(field.split()) > 3 for field in fields)


def _looks_like_header(fields: Sequence[str], names: Sequence[str]) -> bool:
    known = HEADER_WORDS | {name.casefold() for name in names}
    are_words = all(re.fullmatch(r"[A-Za-z_][\w .-]{0,39}", field) for field in fields)
    return are_words and any(field.strip().casefold() in known for field in fields)


def _tsv_rows(lines: Lines) -> Iterator[Fields]:
    for line in lines:
        if lines.bad:
            yield lines.bad.pop(), None
        elif line:
            yield lines.number, line.split("\t")


def _csv_rows(path: Path, lines: Lines, columns: int) -> Iterator[Fields]:
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader((line.replace("\r", " ") + "\n" for line in lines), strict=True)
    last_line = 0
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}: a quote is not closed or not doubled between line {last_line + 1} and "
                f"{lines.number} ({error}); fix it there, or give the table as parquet or tsv"
            ) from None
        if lines.bad:
            yield lines.bad[0], None
            lines.bad.clear()
        elif fields:
            columns = columns or len(fields)
            _check_merged_rows(path, fields, last_line + 1, columns)
            yield last_line + 1, fields
        last_line = lines.number


def _check_merged_rows(path: Path, fields: list[str], line: int, columns: int) -> None:
    for index, field in enumerate(fields):
        if "\n" in field and looks_merged(fields, index, columns):
            raise DataError(
                f"{path}: the quoted field that begins in line {line} holds {field.count(chr(10))} further "
                "lines that look like rows; close the quote, or write line breaks in captions as spaces"
            )


def read_json_lines(path: Path, wanted: Sequence[str]) -> Iterator[Record]:
    """Yield the records of a file with one object a line; an object may lack a column.

    Args:
        path: A UTF-8 file, packed by gzip if its name ends in .gz.
        wanted: The columns to take.

    Raises:
        ConfigurationError: no object has a column.
        DataError: the file has no line, or is cut.
    """
    seen: dict[str, None] = {}  # in order
    with open_lines(path) as lines:
        for line in lines:
            where = f"{path.name} line {lines.number}"
            if lines.bad:
                lines.bad.clear()
                yield Record(where, {}, "bad_utf8")
            elif line.strip():
                tree = _parsed_object(line)
                if tree is None:
                    yield Record(where, {}, "bad_json")
                else:
                    seen |= dict.fromkeys(tree)
                    yield Record(where, {column: tree[column] for column in wanted if column in tree})
        if lines.number == 0:
            raise DataError(f"{path} has no line; expected a JSON object a line")
    check_columns(path, list(seen), wanted)


def _parsed_object(line: str) -> dict[str, Any] | None:
    try:
        tree = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return tree if isinstance(tree, dict) else None


@contextmanager
def open_lines(path: Path) -> Iterator[Lines]:
    """Open a file of UTF-8 lines, packed by gzip if its name ends in .gz."""
    with path.open("rb") as file:
        yield Lines(path, gzip.GzipFile(fileobj=file) if path.suffix.lower() == ".gz" else file)


class Lines:
    """Decoded lines of a file, numbered from 1; `bad` collects the numbers of lines that are not UTF-8."""

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
                yield data.decode(errors="replace")  # its quotes still count

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


def looks_merged(fields: Sequence[str], index_of_field: int, columns: int) -> bool:
    r"""Return whether a field of several lines is more likely merged rows than one caption.

    The field is split at its line breaks as if it had no quotes. Its first line then ends the row before it,
    and its last line begins the row after it. A line counts as a row if it has as many fields as the table
    has columns, and the same shape as this row in every column that holds no caption (a url, a file, a
    number). If more than half of the lines are rows, an unbalanced quote has merged them. A table without
    such a column, for example one with captions only, gives no evidence.

    Example: field 1 of `["http://a/1", "a cat\nhttp://a/2,a dog"]` with 2 columns is two rows; field 1 of
    `["http://a/1", "A cat.\nNext to it, a dog."]` is one caption.

    Args:
        fields: One row as the csv module read it.
        index_of_field: Index of the field in `fields`.
        columns: Number of columns of the table.
    """
    lines = [line.split(",") for line in fields[index_of_field].split("\n")]
    lines[0] = [*fields[:index_of_field], *lines[0]]
    lines[-1] = [*lines[-1], *fields[index_of_field + 1 :]]
    shapes = {index: _shape(value) for index, value in enumerate(fields) if index != index_of_field}
    if len(lines[0]) == columns > 1 and ADDRESS in lines[0][index_of_field]:
        shapes[index_of_field] = _shape(lines[0][index_of_field])
    expected = {index: shape for index, shape in shapes.items() if not shape[0] and any(shape)}
    rows = sum(
        len(line) == columns and all(_shape(line[index]) == shape for index, shape in expected.items())
        for line in lines
    )
    return bool(expected) and 2 * rows > len(lines)


def _shape(value: str) -> tuple[bool, bool, bool]:
    """Return whether a value holds white space, whether digits, and whether a slash or a file suffix."""
    return (
        any(map(str.isspace, value)),
        any(map(str.isdigit, value)),
        "/" in value or bool(FILE.search(value)),
    )
