"""Train images with nearly equal embeddings, or captions': the first by key is kept.

Images are looked at in the order of their keys, and one goes where an image that is kept before it is too
near: so a chain does not vanish with its first link. Every image is compared with every kept one, block by
block, with the memory of two blocks: the time grows with the square of N, and params say how many images
are too many. No bound spares comparisons without missing pairs, as it does for thumbnails: embeddings have
hundreds of dimensions, and those of different images are near in each. Buckets of random projections would
find a share of the pairs only, with other seeds other ones; they are not used.
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
    """The kept image that one is near to."""

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
    """Return the images that go.

    Args:
        keys: Of the images that are looked at.
        vectors: Embeddings of all images.
        min_cosine: From here on two images count as the same.
        work: Where finished blocks are kept.
        code: Hash of the code that finds them.
        progress: Told the number of images of each finished block.

    Raises:
        DataError: an image has no embedding.
    """
    ordered = sorted(keys)
    if not ordered:
        return {}
    digest = sha256("\n".join(ordered).encode()).hexdigest()
    sources = [[entry.place, entry.sha256] for entry in vectors.entries]
    store = work / content_key([code, digest, sources, min_cosine])
    matrix = _matrix(ordered, vectors, work / "vectors.npy")
    kept = np.ones(len(ordered), bool)
    found: dict[str, Near] = {}
    for start in range(0, len(ordered), BLOCK):

        def make(folder: Path, start: int = start) -> None:
            lines = near_of_block(matrix, kept, start, min_cosine)
            write_table(folder / TABLE, pa.Table.from_pylist(lines, NEAR))

        for line in read_table(get_or_build(store, f"{start:012d}", make) / TABLE, NEAR).to_pylist():
            kept[line["place"]] = False
            found[ordered[line["place"]]] = Near(ordered[line["like"]], line["cosine"])
        progress(min(BLOCK, len(ordered) - start))
    remove(work / "vectors.npy")
    return found


def near_of_block(
    matrix: NDArray[np.float16], kept: NDArray[np.bool_], start: int, min_cosine: float
) -> list[dict[str, Any]]:
    """Return which rows of a block are near to a kept one before them, and to which one first.

    Args:
        matrix: (N, D).
        kept: (N,) decided for all rows before `start`.
        start: First row of the block.
        min_cosine: See `near_images`.
    """
    block = _unit(matrix[start : start + BLOCK])
    like = np.full(len(block), -1, np.int64)
    cosine = np.zeros(len(block), np.float32)
    for before in range(0, start, BLOCK):
        rows = before + np.flatnonzero(kept[before : before + BLOCK])
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
    gone = np.flatnonzero(like >= 0)
    return [
        {"place": start + int(row), "like": int(like[row]), "cosine": round(float(cosine[row]), 6)}
        for row in gone
    ]


def _unit(rows: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return rows of length 1, which those rounded to fp16 are only nearly."""
    exact = np.asarray(rows, np.float32)
    return exact / np.linalg.norm(exact, axis=1, keepdims=True)


def _matrix(ordered: list[str], vectors: ImageVectors, path: Path) -> Any:  # noqa: ANN401 - a memory map
    """Return the embeddings (N, D) in the order of the keys, mapped from disk."""
    place_of = {key: place for place, key in enumerate(ordered)}
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(ordered), vectors.width)
    matrix: Any = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    reserve(path)
    missing = set(ordered)
    for _, keys, embeddings in vectors.shards():
        rows = [row for row, key in enumerate(keys) if key in place_of]
        matrix[[place_of[keys[row]] for row in rows]] = embeddings[rows]
        missing.difference_update(keys)
    if missing:
        raise DataError(
            f"{vectors.folder} has no embedding of {len(missing)} images (first {min(missing)}); expected "
            "one of each: `llm2clip forget recaption image_embeddings` has them made again"
        )
    return matrix
