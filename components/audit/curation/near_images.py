"""Drop train images whose image or caption embeddings are nearly equal: the first by key is kept.

Images are checked in the order of their keys. An image is dropped if a kept image before it is too near, so
a chain of near images does not vanish with its first one. Every image is compared with every kept one, block
by block, in the memory of two blocks. The time grows with the square of N; params limit the number of
images. Unlike for thumbnails, no bound can skip comparisons without missing pairs: embeddings have hundreds
of dimensions, and those of different images are near in each. Buckets of random projections would find only
a share of the pairs, which depends on the seed; they are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.audit.curation.score_table import ImageVectors
from components.errors import DataError
from components.storage.atomic import content_key, remove, reserve
from components.storage.result_cache import get_or_build
from components.storage.side_tables import read_table, write_table

BLOCK = 2048
TABLE = "near.parquet"
NEAR = pa.schema([("place", pa.int64()), ("like", pa.int64()), ("cosine", pa.float64())])


@dataclass(frozen=True)
class Near:
    """The kept image that a dropped one is near to, and their cosine."""

    like: str
    cosine: float


def near_images(
    keys: Sequence[str],
    vectors: ImageVectors,
    min_cosine: float,
    work: Path,
    code: str,
    progress: Callable[[int], None],
) -> dict[str, Near]:
    """Return the images to drop.

    Args:
        keys: Keys of the images to compare.
        vectors: Embeddings of all images.
        min_cosine: Cosine from which two images count as the same.
        work: Folder of finished blocks.
        code: Hash of the code of this search.
        progress: Called with the number of images of each finished block.

    Raises:
        DataError: an image has no embedding.
    """
    ordered = sorted(keys)
    if not ordered:
        return {}
    digest = sha256("\n".join(ordered).encode()).hexdigest()
    sources = [[entry.path, entry.sha256] for entry in vectors.entries]
    store = work / content_key([code, digest, sources, min_cosine])
    matrix = _matrix(ordered, vectors, work / "vectors.npy")
    is_kept = np.ones(len(ordered), bool)
    near: dict[str, Near] = {}
    for start in range(0, len(ordered), BLOCK):

        def make(folder: Path, start: int = start) -> None:
            lines = near_of_block(matrix, is_kept, start, min_cosine)
            write_table(folder / TABLE, pa.Table.from_pylist(lines, NEAR))

        for line in read_table(get_or_build(store, f"{start:012d}", make) / TABLE, NEAR).to_pylist():
            is_kept[line["place"]] = False
            near[ordered[line["place"]]] = Near(ordered[line["like"]], line["cosine"])
        progress(min(BLOCK, len(ordered) - start))
    remove(work / "vectors.npy")
    return near


def near_of_block(
    matrix: NDArray[np.float16], kept: NDArray[np.bool_], start: int, min_cosine: float
) -> list[dict[str, Any]]:
    """Return the rows of a block that are near to an earlier kept row, each with the first such row.

    Args:
        matrix: Embeddings (N, D).
        kept: (N,) whether a row is kept; final for all rows before `start`.
        start: First row of the block.
        min_cosine: See `near_images`.
    """
    block = _unit(matrix[start : start + BLOCK])
    like = np.full(len(block), -1, np.int64)
    cosine = np.zeros(len(block), np.float32)
    for earlier_start in range(0, start, BLOCK):
        rows = earlier_start + np.flatnonzero(kept[earlier_start : earlier_start + BLOCK])
        if not len(rows):
            continue
        cosines = block @ _unit(matrix[rows]).T  # (b, kept)
        near = cosines >= min_cosine
        new = near.any(axis=1) & (like < 0)
        first = near.argmax(axis=1)
        like[new] = rows[first[new]]
        cosine[new] = cosines[new, first[new]]
    within = block @ block.T
    for row in range(len(block)):
        if like[row] < 0:
            earlier = np.flatnonzero((within[row, :row] >= min_cosine) & (like[:row] < 0))
            if len(earlier):
                like[row], cosine[row] = start + earlier[0], within[row, earlier[0]]
    dropped = np.flatnonzero(like >= 0)
    return [
        {"place": start + int(row), "like": int(like[row]), "cosine": round(float(cosine[row]), 6)}
        for row in dropped
    ]


def _unit(rows: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return rows of length 1: after rounding to fp16 their length is only nearly 1."""
    exact = np.asarray(rows, np.float32)
    return exact / np.linalg.norm(exact, axis=1, keepdims=True)


def _matrix(ordered: list[str], vectors: ImageVectors, path: Path) -> Any:  # noqa: ANN401 - a memory map
    """Return the embeddings (N, D) in the order of the keys, mapped from disk."""
    index_by_key = {key: index for index, key in enumerate(ordered)}
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(ordered), vectors.width)
    matrix: Any = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    reserve(path)
    missing = set(ordered)
    for _, keys, embeddings in vectors.shards():
        rows = [row for row, key in enumerate(keys) if key in index_by_key]
        matrix[[index_by_key[keys[row]] for row in rows]] = embeddings[rows]
        missing.difference_update(keys)
    if missing:
        raise DataError(
            f"{vectors.folder} has no embedding of {len(missing)} images (first {min(missing)}); expected "
            "one of each; run `llm2clip forget recaption image_embeddings` to compute them again"
        )
    return matrix
