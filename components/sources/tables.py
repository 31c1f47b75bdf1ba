"""Tables of any of three kinds as records, one at a time: parquet, csv and tsv.

A tsv is split on line feeds, then on tabs, and never quoted: every other reader loses rows at a lone quote or
splits a caption at a Unicode line separator. In a csv quotes mean something, so a quote that swallows lines
stops the stage.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.faults import ConfigurationFault, DataFault

BATCH_ROWS = 1024
MAX_FIELD_CHARACTERS = 10_000_000
BOM = b"\xef\xbb\xbf"
MAGIC = {b"PAR1": "parquet", b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip"}
KINDS = (".parquet", ".csv", ".tsv")


@dataclass(frozen=True)
class Record:
    """One record: its values by column, or the reason why it has none."""

    where: str  # file and line, or row
    values: dict[str, Any]
    reason: str = ""


def read_table(path: Path, columns: Iterable[str]) -> Iterator[Record]:
    """Yield the records of a table.

    Args:
        path: A parquet, csv or tsv file; csv and tsv are UTF-8 and begin with a line of column names.
        columns: Those wanted.

    Raises:
        ConfigurationFault: no such file, another kind of file, or a column it does not have.
        DataFault: it is empty or damaged.
    """
    _check_file(path)
    wanted = list(dict.fromkeys(columns))
    records = _read_parquet(path, wanted) if path.suffix == ".parquet" else _read_text(path, wanted)
    count = 0
    for record in records:
        count += 1
        yield record
    if count == 0:
        raise DataFault(f"{path} has column names and no rows; expected at least one row")


def _check_file(path: Path) -> None:
    if path.suffix not in KINDS:
        raise ConfigurationFault(f"{path}: expected a table, {', '.join(KINDS)}; convert or unpack it first")
    if not path.is_file():
        there = ", ".join(sorted(one.name for one in path.parent.glob("*"))[:5]) or "nothing"
        raise ConfigurationFault(f"{path} not found; its folder holds {there}: put it there or mend the path")
    with path.open("rb") as file:
        head = file.read(4)
    if not head:
        raise DataFault(f"{path} is empty; expected a table with column names and rows")
    found = next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), "text")
    expected = "parquet" if path.suffix == ".parquet" else "text"
    if found != expected:
        raise DataFault(f"{path} is {found} inside; its name promises {expected}: unpack or rename it")


def _check_columns(path: Path, found: list[str], wanted: list[str]) -> None:
    import difflib

    for column in wanted:
        if column not in found:
            near = difflib.get_close_matches(column, found, n=1)
            hint = (
                f"did you mean {near[0]}?" if near else "name one of them in params (a header line is needed)"
            )
            names = ", ".join(f"{name:.40}" for name in found[:10])
            raise ConfigurationFault(f"{path} has no column {column}; it has {names}: {hint}")
        if found.count(column) > 1:
            raise DataFault(
                f"{path} has {found.count(column)} columns {column}; expected one: rename the others"
            )


def _read_parquet(path: Path, wanted: list[str]) -> Iterator[Record]:
    number = 0
    try:
        file = pq.ParquetFile(path)
        _check_columns(path, file.schema_arrow.names, wanted)
        for batch in file.iter_batches(BATCH_ROWS, columns=wanted):
            for row in range(batch.num_rows):
                yield _parquet_record(batch, row, f"{path.name} row {number}")
                number += 1
    except (OSError, pa.ArrowException) as error:
        what = str(error).splitlines()[0]
        raise DataFault(f"{path} is damaged after {number} rows ({what}); fetch it again") from None


def _parquet_record(batch: pa.RecordBatch, row: int, where: str) -> Record:
    try:
        return Record(where, {name: batch.column(name)[row].as_py() for name in batch.schema.names})
    except UnicodeDecodeError:
        return Record(where, {}, "bad_utf8")


def _read_text(path: Path, wanted: list[str]) -> Iterator[Record]:
    with path.open("rb") as file:
        lines = _Lines(path, file)
        rows = _csv_rows(path, lines) if path.suffix == ".csv" else _tsv_rows(lines)
        _, header = next(rows, (0, None))
        if header is None:
            raise DataFault(f"{path} has no line of column names; expected one, in UTF-8")
        _check_columns(path, header, wanted)
        places = {column: header.index(column) for column in wanted}
        for line, fields in rows:
            where = f"{path.name} line {line}"
            if fields is None:
                yield Record(where, {}, "bad_utf8")
            elif len(fields) != len(header):
                yield Record(where, {}, "wrong_field_count")
            else:
                yield Record(where, {column: fields[place] for column, place in places.items()})


Fields = tuple[int, list[str] | None]  # line number; None: not UTF-8


class _Lines:
    """Decodes lines, counts them from 1, and puts those that are no UTF-8 aside."""

    def __init__(self, path: Path, file: Iterable[bytes]) -> None:
        self.path, self.number, self.bad = path, 0, list[int]()
        self._file = file

    def __iter__(self) -> Iterator[str]:
        for data in self._file:
            self.number += 1
            data = data.removeprefix(BOM) if self.number == 1 else data
            try:
                line = data.removesuffix(b"\n").removesuffix(b"\r").decode()
            except UnicodeDecodeError:
                self.bad.append(self.number)
                line = ""
            yield line


def _tsv_rows(lines: _Lines) -> Iterator[Fields]:
    for line in lines:
        if lines.bad:
            yield lines.bad.pop(), None
        elif line:
            yield lines.number, line.split("\t")


def _csv_rows(path: Path, lines: _Lines) -> Iterator[Fields]:
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    reader = csv.reader((line.replace("\r", " ") + "\n" for line in lines), strict=True)
    last, columns = 0, 0
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataFault(
                f"{path}: a quote is not closed or not doubled between line {last + 1} and {lines.number} "
                f"({error}); mend it there, or give the table as parquet or tsv"
            ) from None
        if lines.bad:
            yield lines.bad.pop(), None
        elif fields:
            columns = columns or len(fields)
            _check_span(path, fields, last + 1, columns)
            yield last + 1, fields
        last = lines.number


def _check_span(path: Path, fields: list[str], line: int, columns: int) -> None:
    """Refuse a field that holds what looks like whole rows: two lone quotes swallow all between them."""
    for field in fields:
        swallowed = field.split("\n")[1:]
        if any(part.count(",") == columns - 1 for part in swallowed):
            raise DataFault(
                f"{path}: the quoted field that begins in line {line} holds {len(swallowed)} further lines "
                "that look like rows; close the quote, or write line breaks in captions as spaces"
            )
