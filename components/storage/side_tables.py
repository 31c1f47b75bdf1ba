"""Parquet tables per shard (captions, drafts, kept keys), joined to images by key and never by row number."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import DataError
from components.storage.atomic import new_file

CAPTIONS = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("column", pa.string()),
        ("language", pa.string()),
        ("number", pa.int32()),
        ("text", pa.string()),
        ("writer", pa.string()),
    ]
)

# the columns for readers that need only texts
CAPTION_TEXTS = pa.schema([CAPTIONS.field(name) for name in ("key", "split", "column", "number", "text")])

DRAFTS = pa.schema([*CAPTIONS, ("reason", pa.string())])


@dataclass(frozen=True)
class Caption:
    """One caption of a row; `number` counts the captions of one key and column from 0."""

    key: str
    split: str  # train, validation or test
    column: str  # alt, short, tiny_dense, ...
    language: str
    number: int
    text: str
    writer: str  # the source or captioner it is from


def write_captions(path: Path, captions: Iterable[Caption]) -> None:
    """Write one shard's captions."""
    write_table(path, pa.table(_columns(list(captions)), CAPTIONS))


def read_captions(path: Path) -> list[Caption]:
    """Read one shard's captions."""
    return captions_in(read_table(path, CAPTIONS))


def _columns(captions: list[Caption]) -> dict[str, list[Any]]:
    """Return captions as columns; `asdict` would copy every string, at ten times the cost."""
    return {name: [getattr(caption, name) for caption in captions] for name in CAPTIONS.names}


def captions_in(table: pa.Table) -> list[Caption]:
    """Return the captions of a table that has all columns of `CAPTIONS`."""
    columns = (table[name].to_pylist() for name in CAPTIONS.names)  # in the order of the fields
    return [Caption(*values) for values in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Draft:
    """A caption that a captioner wrote, and the reason why it is rejected; None if no reason is known yet."""

    caption: Caption
    reason: str | None = None


def write_drafts(path: Path, drafts: Iterable[Draft]) -> None:
    """Write one shard's drafts."""
    rows = list(drafts)
    columns = {**_columns([draft.caption for draft in rows]), "reason": [draft.reason for draft in rows]}
    write_table(path, pa.table(columns, DRAFTS))


def read_drafts(path: Path) -> list[Draft]:
    """Read one shard's drafts."""
    table = read_table(path, DRAFTS)
    reasons = table["reason"].to_pylist()
    return [Draft(caption, reason) for caption, reason in zip(captions_in(table), reasons, strict=True)]


def write_keys(path: Path, keys: Iterable[str]) -> None:
    """Write the kept keys of one shard."""
    write_table(path, pa.table({"key": pa.array(keys, pa.string())}))


def read_keys(path: Path) -> set[str]:
    """Read the kept keys of one shard."""
    return set(key_column(path).to_pylist())


def key_column(path: Path) -> pa.ChunkedArray:
    """Read the kept keys of one shard in file order."""
    return read_table(path, pa.schema([("key", pa.string())]))["key"]


def write_table(path: Path, table: pa.Table) -> None:
    """Write Parquet whose bytes depend only on the table."""
    with new_file(path) as part:
        pq.write_table(table, part, compression="zstd")


def read_table(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    """Read Parquet: all columns, or those of a schema.

    Raises:
        DataError: the file is missing or damaged, or lacks a column of the schema.
    """
    try:
        with pq.ParquetFile(path) as file:  # `pq.read_table` loads 12 MB of code for folders of tables
            if schema is None:
                return file.read()
            types = {field.name: field.type for field in file.schema_arrow}
            if any(types.get(field.name) != field.type for field in schema):
                raise DataError(
                    f"{path} has columns {', '.join(types)}; expected {', '.join(schema.names)}, of the "
                    "types this version writes: `llm2clip forget STAGE` has the stage make it again"
                )
            return file.read(schema.names).select(schema.names)
    except (OSError, pa.ArrowException, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise DataError(
            f"{path} cannot be read ({cause}); `dvc checkout` brings the last good one back"
        ) from None


def text_key(text: str) -> str:
    """Return the sha256 of a caption's NFC text, by which equal captions are embedded once."""
    return sha256(unicodedata.normalize("NFC", text).encode()).hexdigest()
