"""Base CLIP's image embeddings and caption scores: side tables per shard, joined by key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from components.errors import DataError
from components.storage.embeddings import read_vectors, write_embeddings
from components.storage.side_tables import read_table

if TYPE_CHECKING:
    from torch import Tensor

SCORES_FOLDER, IMAGES_FOLDER = "scores", "image_embeddings"  # below artifacts/recaption
SCORES = pa.schema(
    [
        ("key", pa.string()),
        ("column", pa.string()),
        ("number", pa.int32()),
        ("similarity", pa.float32()),  # cosine of image and caption under the base CLIP; null if not computed
        ("is_cut", pa.bool_()),  # the caption is longer than CLIP's context and was truncated
        (
            "agreement",
            pa.float32(),
        ),  # mean word overlap with other writers' captions; null without other captions
    ]
)
EMBEDDED_IMAGES = pa.schema([("key", pa.string()), ("row", pa.int64())])
_FIX = "`llm2clip forget recaption image_embeddings scores` has them made again"


def write_image_embeddings(
    folder: Path, name: str, about: dict[str, Any], table: pa.Table, embeddings: Tensor
) -> None:
    """Write a shard's image embeddings in the form of `storage.embeddings`.

    Args:
        folder: Folder of `<name>.safetensors` and `<name>.parquet`.
        name: The shard.
        about: What made the embeddings, as plain values.
        table: One line per image (`EMBEDDED_IMAGES`).
        embeddings: (N, D), rows of length 1; stored as fp16.

    Raises:
        DataError: an embedding is not finite or zero.
    """
    write_embeddings(folder, name, about, table, embeddings, _FIX)


def read_image_embeddings(path: Path) -> tuple[list[str], Tensor]:
    """Read a shard's image embeddings.

    Args:
        path: The `.safetensors` file; the caller has verified it by its manifest.

    Returns:
        The keys, and their embeddings (N, D) fp16.

    Raises:
        DataError: a file is missing or damaged, or an embedding is NaN, infinite or zero.
    """
    _, vectors, table = read_vectors(path, EMBEDDED_IMAGES, _FIX)
    return table["key"].to_pylist(), vectors[table["row"].to_numpy().copy()]


def read_scores(path: Path) -> pa.Table:
    """Read a shard's scores.

    Raises:
        DataError: the file is missing or damaged, or a caption has two lines.
    """
    table = read_table(path, SCORES)
    lines = table.select(["key", "column", "number"])
    if len(lines.group_by(lines.column_names).aggregate([])) != len(lines):
        raise DataError(f"{path} scores a caption twice; expected each once: {_FIX}")
    return table
