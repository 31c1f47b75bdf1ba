"""Tables that are text: csv and tsv, with a header line or without.

A tsv is split on line feeds, then on tabs, and never quoted: every other reader loses rows at a lone quote or
splits a caption at a Unicode line separator. In a csv quotes mean something, so a quote that swallows lines
stops the stage. A field is a text here; `texts.captions_of` says which texts are lists of captions.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from components.errors import ConfigurationError, DataError
from components.sources.csv_quote_check import looks_swallowed
from components.sources.lines import MAX_LINE_BYTES, Lines, open_lines
from components.sources.records import Record, check_columns

HEADER_WORDS = frozenset(
    {"alt", "caption", "file", "file_name", "filename", "id", "image", "image_path", "image_url", "key"}
    | {"path", "split", "text", "title", "url"}
)

Fields = tuple[int, list[str] | None]  # line number; None: not UTF-8


def read_text(path: Path, wanted: Sequence[str], names: Sequence[str] | None) -> Iterator[Record]:
    """Yield the records of a csv or tsv.

    Args:
        path: A UTF-8 file, packed by gzip if its name ends in .gz.
        wanted: The columns to take.
        names: Of its columns, if it has no header line.

    Raises:
        ConfigurationError: a column is missing, or the first line is a header and should not be, or is none.
        DataError: there is no line, the file is cut or broken, or a quote swallows lines.
    """
    with open_lines(path) as lines:
        is_csv = path.name.lower().removesuffix(".gz").endswith(".csv")
        rows = _csv_rows(path, lines, len(names or ())) if is_csv else _tsv_rows(lines)
        header, rows = _header(path, rows, wanted, names)
        places = {column: header.index(column) for column in wanted}
        for line, fields in rows:
            where = f"{path.name} line {line}"
            if fields is None:
                yield Record(where, {}, "bad_utf8")
            elif len(fields) != len(header):
                yield Record(where, {}, "wrong_field_count")
            else:
                yield Record(where, {column: fields[place] for column, place in places.items()})


def _header(
    path: Path, rows: Iterator[Fields], wanted: Sequence[str], names: Sequence[str] | None
) -> tuple[list[str], Iterator[Fields]]:
    """Return the names of the columns, and the rows below them."""
    first = next(rows, None)
    if first is None or (names is None and first[1] is None):
        expected = "a line of column names" if names is None else "rows"
        raise DataError(f"{path} has no {expected.removeprefix('a ')}; expected {expected}, in UTF-8")
    fields = first[1] or []
    if names is None:
        hint = "if that is a row, list the names in columns" if _is_a_row(fields) else ""
        check_columns(path, fields, wanted, hint)
        return fields, rows
    check_columns(path, list(names), wanted)
    if _is_a_header(fields, names):
        raise ConfigurationError(
            f"{path} begins with a line of column names ({', '.join(fields)}), and params name the columns "
            "too; expected rows only: set columns of its source to null, or remove the line"
        )
    return list(names), chain([first], rows)


def _is_a_row(fields: Sequence[str]) -> bool:
    return any("://" in field or len(field.split()) > 3 for field in fields)


def _is_a_header(fields: Sequence[str], names: Sequence[str]) -> bool:
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
    last = 0
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}: a quote is not closed or not doubled between line {last + 1} and {lines.number} "
                f"({error}); mend it there, or give the table as parquet or tsv"
            ) from None
        if lines.bad:
            yield lines.bad[0], None
            lines.bad.clear()
        elif fields:
            columns = columns or len(fields)
            _check_span(path, fields, last + 1, columns)
            yield last + 1, fields
        last = lines.number


def _check_span(path: Path, fields: list[str], line: int, columns: int) -> None:
    for place, field in enumerate(fields):
        if "\n" in field and looks_swallowed(fields, place, columns):
            raise DataError(
                f"{path}: the quoted field that begins in line {line} holds {field.count(chr(10))} further "
                "lines that look like rows; close the quote, or write line breaks in captions as spaces"
            )
