"""Read the records of table files: parquet, csv, tsv or JSON lines, the text formats plain or gzipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import ConfigurationError, DataError
from components.sources.records import Record, check_columns
from components.sources.text_tables import read_json_lines, read_text
from components.sources.values import Rejected
from components.storage.file_kinds import GZIP, HEAD_BYTES, PARQUET, TEXT, file_kind

BATCH_ROWS = 1024
BUFFER_BYTES = 1 << 20  # read per column at a time; without it, whole row groups are in memory
KINDS = (".parquet", ".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")


def read_tables(
    paths: Sequence[Path], columns: Iterable[str], names: Sequence[str] | None = None
) -> Iterator[Record]:
    """Yield the records of tables, file by file.

    Args:
        paths: Parquet, csv, tsv or jsonl files; all but parquet are UTF-8, and may be packed by gzip.
        columns: The columns to take.
        names: Column names of a csv or tsv without a header line; None: the first line names them.

    Raises:
        ConfigurationError: a file has another format or lacks a column, or a header line is present where
            none
            is expected, or missing where one is expected.
        DataError: a file is empty or damaged, or no file has a row.
    """
    distinct_columns = list(dict.fromkeys(columns))
    count = 0
    for path in paths:
        for record in _read_table(path, distinct_columns, names):
            count += 1
            yield record
    if count == 0:
        raise DataError(f"{paths[0]} has column names and no rows; expected at least one row")


def _read_table(path: Path, columns: list[str], names: Sequence[str] | None) -> Iterator[Record]:
    kind = next((kind for kind in KINDS if path.name.lower().endswith(kind)), None)
    if kind is None:
        raise ConfigurationError(f"{path}: expected a table, {', '.join(KINDS)}; convert or unpack it first")
    _check_head(path, kind)
    if kind.startswith((".csv", ".tsv")):
        return read_text(path, columns, names)
    if names is not None:
        raise ConfigurationError(f"{path} names its columns itself; set columns of its source to null")
    return _read_parquet(path, columns) if kind == ".parquet" else read_json_lines(path, columns)


def _check_head(path: Path, kind: str) -> None:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise DataError(f"{path} is empty; expected a table with rows")
    actual = file_kind(head) or TEXT
    expected = PARQUET if kind == ".parquet" else GZIP if kind.endswith(".gz") else TEXT
    if actual != expected:
        raise DataError(f"{path} is {actual.name} inside; its name promises {expected.name}; {actual.advice}")


def _read_parquet(path: Path, columns: list[str]) -> Iterator[Record]:
    number = 0
    try:
        file = pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
        check_columns(path, file.schema_arrow.names, columns)
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            for record in _records(batch, path.name, number):
                yield record
                number += 1
    except (OSError, pa.ArrowException) as error:
        cause = str(error).splitlines()[0]
        raise DataError(f"{path} is damaged after {number} rows ({cause}); fetch it again") from None


def _records(batch: pa.RecordBatch, name: str, first: int) -> Iterator[Record]:
    try:
        records = batch.to_pylist(maps_as_pydicts=_maps_as_pydicts(batch.schema))
    except MemoryError:
        raise
    except Exception:  # e.g. bytes that are not text, a date in the year 100000, an unknown time zone
        yield from _records_by_cell(batch, name, first)
        return
    for row, values in enumerate(records, first):
        yield Record(f"{name} row {row}", values)


def _records_by_cell(batch: pa.RecordBatch, name: str, first: int) -> Iterator[Record]:
    """Yield the records of a batch; a record with a cell that Python cannot represent is rejected."""
    columns = {column: _cells(batch.column(column)) for column in batch.schema.names}
    for row in range(batch.num_rows):
        values = {column: cells[row] for column, cells in columns.items()}
        rejected = next((value for value in values.values() if isinstance(value, Rejected)), None)
        where = f"{name} row {first + row}"
        yield Record(where, {}, str(rejected)) if rejected else Record(where, values)


def _maps_as_pydicts(schema: pa.Schema) -> str | None:
    """Return the option that gives maps as dicts; None without nested columns, as it takes 4x as long."""
    return "strict" if any(pa.types.is_nested(field.type) for field in schema) else None


def _cells(column: pa.Array) -> list[Any]:
    try:
        return column.to_pylist(maps_as_pydicts="strict")
    except MemoryError:
        raise
    except Exception:  # raised by one cell or more
        return [_cell(scalar) for scalar in column]


def _cell(scalar: pa.Scalar) -> Any:  # noqa: ANN401 - whatever the table holds
    try:
        return scalar.as_py(maps_as_pydicts="strict")
    except UnicodeDecodeError:
        return Rejected("bad_utf8")
    except MemoryError:
        raise
    except Exception:
        return Rejected("not_text")
