"""Tables as records, one at a time: parquet, csv, tsv or JSON lines, packed or not, one file or many."""

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
BUFFER_BYTES = 1 << 20  # of a column at a time; else whole row groups are in memory
KINDS = (".parquet", ".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")


def read_tables(
    paths: Sequence[Path], columns: Iterable[str], names: Sequence[str] | None = None
) -> Iterator[Record]:
    """Yield the records of tables, file by file.

    Args:
        paths: Parquet, csv, tsv or jsonl files; all but parquet are UTF-8, and may be packed by gzip.
        columns: Those wanted.
        names: Of the columns of a csv or tsv without a header line; None: its first line names them.

    Raises:
        ConfigurationError: another kind of file, a column that a file does not have, or a header line where
            none was expected, or the other way round.
        DataError: a file is empty or damaged, or no file has a row.
    """
    wanted = list(dict.fromkeys(columns))
    count = 0
    for path in paths:
        for record in _read_one(path, wanted, names):
            count += 1
            yield record
    if count == 0:
        raise DataError(f"{paths[0]} has column names and no rows; expected at least one row")


def _read_one(path: Path, wanted: list[str], names: Sequence[str] | None) -> Iterator[Record]:
    kind = next((kind for kind in KINDS if path.name.lower().endswith(kind)), None)
    if kind is None:
        raise ConfigurationError(f"{path}: expected a table, {', '.join(KINDS)}; convert or unpack it first")
    _check_head(path, kind)
    if kind.startswith((".csv", ".tsv")):
        return read_text(path, wanted, names)
    if names is not None:
        raise ConfigurationError(f"{path} names its columns itself; set columns of its source to null")
    return _read_parquet(path, wanted) if kind == ".parquet" else read_json_lines(path, wanted)


def _check_head(path: Path, kind: str) -> None:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise DataError(f"{path} is empty; expected a table with rows")
    found = file_kind(head) or TEXT
    expected = PARQUET if kind == ".parquet" else GZIP if kind.endswith(".gz") else TEXT
    if found != expected:
        raise DataError(f"{path} is {found.name} inside; its name promises {expected.name}; {found.advice}")


def _read_parquet(path: Path, wanted: list[str]) -> Iterator[Record]:
    number = 0
    try:
        file = pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
        check_columns(path, file.schema_arrow.names, wanted)
        for batch in file.iter_batches(BATCH_ROWS, columns=wanted):
            for record in _records(batch, path.name, number):
                yield record
                number += 1
    except (OSError, pa.ArrowException) as error:
        what = str(error).splitlines()[0]
        raise DataError(f"{path} is damaged after {number} rows ({what}); fetch it again") from None


def _records(batch: pa.RecordBatch, name: str, first: int) -> Iterator[Record]:
    try:
        records = batch.to_pylist(maps_as_pydicts=_form_of_maps(batch.schema))
    except MemoryError:
        raise
    except Exception:  # bytes that are no text, a date of the year 100000, an unknown time zone
        yield from _records_by_cell(batch, name, first)
        return
    for row, values in enumerate(records, first):
        yield Record(f"{name} row {row}", values)


def _records_by_cell(batch: pa.RecordBatch, name: str, first: int) -> Iterator[Record]:
    """Yield the records of a batch; one with a cell that Python cannot hold is rejected."""
    columns = {column: _cells(batch.column(column)) for column in batch.schema.names}
    for row in range(batch.num_rows):
        values = {column: cells[row] for column, cells in columns.items()}
        rejected = next((value for value in values.values() if isinstance(value, Rejected)), None)
        where = f"{name} row {first + row}"
        yield Record(where, {}, str(rejected)) if rejected else Record(where, values)


def _form_of_maps(schema: pa.Schema) -> str | None:
    """Say how maps come out: as records, not as lists of pairs. Any word of it takes four times the time."""
    return "strict" if any(pa.types.is_nested(field.type) for field in schema) else None


def _cells(column: pa.Array) -> list[Any]:
    try:
        return column.to_pylist(maps_as_pydicts="strict")
    except MemoryError:
        raise
    except Exception:  # of a few of its cells, or of all
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
