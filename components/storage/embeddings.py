"""Read and write embeddings per column and shard: un-normalised fp16 safetensors with a table of lines.

A reader takes only the columns it needs, and a new column leaves the files of the others unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.errors import DataError
from components.storage.atomic import new_file
from components.storage.bulk import local_copy
from components.storage.manifest import Entry, read_manifest
from components.storage.mapped_rows import MappedRows
from components.storage.side_tables import read_table, write_table

if TYPE_CHECKING:
    from torch import Tensor

PROMPTS = "prompts"  # file name of the zero-shot prompts
EMBEDDED_CAPTIONS = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("column", pa.string()),
        ("language", pa.string()),
        ("number", pa.int32()),
        ("row", pa.int64()),
    ]
)
EMBEDDED_PROMPTS = pa.schema(
    [("task", pa.string()), ("label", pa.string()), ("template", pa.string()), ("row", pa.int64())]
)
CHECKED_ROWS = 256
_FIX = "`dvc repro --force embed_captions` makes it again"


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of one LLM.

    Attributes:
        about: What made the embeddings: llm, its hash, encoding, dtype, hash of the code. With the texts it
            decides the vectors, but for rounding: they depend on their batch.
        vectors: (M, d) fp16, un-normalised, finite, no row zero.
        table: One line per caption (`EMBEDDED_CAPTIONS`) or prompt (`EMBEDDED_PROMPTS`); `row` is an index
            into `vectors`, and captions of equal text share a row.
    """

    about: dict[str, Any]
    vectors: MappedRows
    table: pa.Table


def write_embeddings(
    folder: Path, name: str, about: dict[str, Any], table: pa.Table, embeddings: Tensor, fix: str = _FIX
) -> None:
    """Write `<name>.safetensors` and `<name>.parquet`, whose bytes depend only on the arguments.

    Args:
        folder: `<llm>/<column>` for captions, `<llm>` for prompts.
        name: The shard, or `PROMPTS`.
        about: What made the embeddings, as plain values.
        table: As in `Embeddings`.
        embeddings: (M, d), un-normalised; stored as fp16.
        fix: What to do about an error, for the message.

    Raises:
        DataError: a vector is not finite, too large for fp16, or zero.
    """
    import torch
    from safetensors.torch import save_file

    path = folder / f"{name}.safetensors"
    vectors = embeddings.to(torch.float16).contiguous()
    _check(path, vectors, table, fix)
    # safetensors writes its metadata keys in random order: one key keeps the bytes stable
    metadata = {"about": json.dumps(about, sort_keys=True)}
    with new_file(path) as part:
        save_file({"embeddings": vectors}, part, metadata=metadata)
    write_table(folder / f"{name}.parquet", table)


def read_embeddings(folder: Path, columns: Iterable[str], work: Path) -> Embeddings:
    """Read one LLM's caption embeddings, verified by the manifest of the parent folder.

    Args:
        folder: `artifacts/embed_captions/<llm>`.
        columns: Caption columns to read; each must be present.
        work: The stage's folder in the work store, for files in a bucket (see `read_listed`).

    Raises:
        DataError: a column or a file is missing or damaged, a vector is NaN or zero, a line has no vector, or
            files were made by different models or settings.
    """
    entries: list[Entry] = []
    for column in sorted(set(columns)):
        column_entries = _vector_entries(folder, f"{column}/")
        if not column_entries:
            paths = [PurePosixPath(entry.path).parts for entry in _vector_entries(folder)]
            present = sorted({parts[1] for parts in paths if len(parts) > 2})
            raise DataError(
                f"{folder} has no embeddings of column {column}, but of {', '.join(present) or 'none'}; "
                f"{_FIX}"
            )
        entries += column_entries
    return _concatenated(folder, entries, EMBEDDED_CAPTIONS, work)


def read_prompts(folder: Path, work: Path) -> Embeddings:
    """Read one LLM's embeddings of the zero-shot prompts, like `read_embeddings`."""
    entries = _vector_entries(folder, f"{PROMPTS}.")
    if not entries:
        raise DataError(f"{folder} has no embeddings of prompts; {_FIX}")
    return _concatenated(folder, entries, EMBEDDED_PROMPTS, work)


def _vector_entries(folder: Path, start: str = "") -> list[Entry]:
    entries = read_manifest(folder.parent, f"{folder.name}/{start}")
    return [entry for entry in entries if entry.is_vectors]


def _concatenated(folder: Path, entries: list[Entry], schema: pa.Schema, work: Path) -> Embeddings:
    about: dict[str, Any] = {}
    vectors: list[NDArray[np.float16]] = []
    tables: list[pa.Table] = []
    offset = 0
    for entry in entries:
        file_about, file_vectors, table = read_listed(folder.parent, entry, schema, _FIX, work)
        about = about or file_about
        if file_about != about:
            first = entries[0].path
            raise DataError(f"{folder}: {entry.path} was made by {file_about}, {first} by {about}; {_FIX}")
        vectors.append(file_vectors.numpy())
        rows = pa.array(table["row"].to_numpy() + offset, pa.int64())
        tables.append(table.set_column(table.schema.get_field_index("row"), "row", rows))
        offset += len(file_vectors)
    return Embeddings(about, MappedRows(vectors), pa.concat_tables(tables))


def lines_of(folder: Path, entry: Entry) -> Path:
    """Return the path of a vector file's table; the table is local even if the vectors are not."""
    return (folder / entry.path).with_suffix(".parquet")


def read_listed(
    folder: Path, entry: Entry, schema: pa.Schema, fix: str, work: Path
) -> tuple[dict[str, Any], Tensor, pa.Table]:
    """Read one vector file of a verified manifest, local or in a bucket, like `read_vectors`.

    The vectors are memory-mapped. Vectors from a bucket are mapped from a deleted temporary file, which takes
    disk space for as long as they are in use.
    """
    with local_copy(folder, entry, work) as path:
        return read_vectors(path, schema, fix, lines_of(folder, entry))


def read_vectors(
    path: Path, schema: pa.Schema, fix: str, lines: Path | None = None
) -> tuple[dict[str, Any], Tensor, pa.Table]:
    """Read one vector file: what made it, its vectors (M, d), and its table, whose `row` indexes them.

    Args:
        path: The vector file.
        schema: Schema of the table.
        fix: What to do about an error, for the message.
        lines: The table's file, if it is not beside the vectors.

    Raises:
        DataError: as in `read_embeddings`; the caller has verified the manifest.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {})["about"])
            vectors: Tensor = file.get_tensor("embeddings")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); {fix}") from None
    table = read_table(lines or path.with_suffix(".parquet"), schema)
    _check(path, vectors, table, fix)
    return about, vectors, table


def _check(path: Path, vectors: Tensor, table: pa.Table, fix: str) -> None:
    import torch

    if vectors.dtype != torch.float16 or vectors.dim() != 2:
        raise DataError(f"{path} holds {vectors.dtype} {tuple(vectors.shape)}; expected fp16 (M, d); {fix}")
    # a few rows at a time: large temporary blocks between long-lived tables would fragment memory
    parts = vectors.split(CHECKED_ROWS)
    if bad := sum(int((~torch.isfinite(part).all(dim=1) | (part == 0).all(dim=1)).sum()) for part in parts):
        raise DataError(
            f"{path}: {bad} of {len(vectors)} embeddings are NaN, infinite or zero; expected none; {fix}"
        )
    if not np.array_equal(np.unique(table["row"].to_numpy()), np.arange(len(vectors))):
        raise DataError(
            f"{path} has {len(vectors)} embeddings, its {len(table)} captions name other rows; {fix}"
        )
