"""Images that are the same, or look the same, found without comparing every image with every other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.audit.fingerprints import THUMBNAIL_SIDE

HASH_BITS = 64
CHUNK_PAIRS = 1 << 14
ROUNDING = 1e-3  # grey levels
LEARNED = ("train", "validation")  # what the models or the choices among them have seen


@dataclass(frozen=True)
class Duplicates:
    """Row numbers, each with that of the row it is like.

    Attributes:
        exact: Rows whose bytes came earlier in the same split.
        near: Other rows that look like an earlier one of the same split.
        leaked: Rows of train or validation that are also in test, exactly or nearly.
        leaked_tests: The rows of test that they are like.
    """

    exact: dict[int, int]
    near: dict[int, int]
    leaked: dict[int, int]
    leaked_tests: dict[int, int]


def find_duplicates(table: pa.Table, bits: int, difference: float) -> Duplicates:
    """Find duplicates within splits, and rows of train or validation that are also in test.

    Args:
        table: Fingerprints of all images (N rows).
        bits: Difference hashes of two images that look the same differ in at most so many bits.
        difference: Their thumbnails differ by at most so many grey levels, root mean square.
    """
    splits = np.array(table.column("split").to_pylist(), dtype=object)
    exact: dict[int, int] = {}
    near: dict[int, int] = {}
    leaked: dict[int, int] = {}
    leaked_tests: dict[int, int] = {}
    for first, second in _same_bytes(table):
        _note(splits, first, second, exact, leaked, leaked_tests)
    for first, second in similar_pairs(*_arrays(table), bits, difference):
        _note(splits, first, second, near, leaked, leaked_tests)
    return Duplicates(
        exact, {row: near[row] for row in sorted(near.keys() - exact.keys())}, leaked, leaked_tests
    )


def similar_pairs(
    hashes: NDArray[np.uint64], thumbnails: NDArray[np.uint8], bits: int, difference: float
) -> Iterator[tuple[int, int]]:
    """Yield row numbers (first < second) of all images that look the same, each pair once, in order.

    Two hashes within `bits` of each other agree in at least one of `bits + 1` bands (multi-index hashing:
    Norouzi et al., arXiv 1307.2982, section 3), and the mean brightness of two thumbnails differs by no more
    than the thumbnails do. Only images that share a band and are about as bright are compared.

    Args:
        hashes: Difference hashes (N,).
        thumbnails: Colour thumbnails (N, 768).
        bits: See `find_duplicates`.
        difference: See `find_duplicates`.
    """
    found: set[tuple[int, int]] = set()
    brightness = thumbnails.mean(axis=1)
    for band in np.array_split(np.arange(HASH_BITS, dtype=np.uint64), bits + 1):
        mask = np.bitwise_or.reduce(np.uint64(1) << band)
        for first, second in _candidates(hashes & mask, brightness, difference):
            close = np.bitwise_count(hashes[first] ^ hashes[second]) <= bits
            first, second = first[close], second[close]
            same = _differences(thumbnails, first, second) <= difference
            found.update(zip(first[same].tolist(), second[same].tolist(), strict=True))
    yield from sorted(found)


def _candidates(
    values: NDArray[np.uint64], brightness: NDArray[np.float64], difference: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield index pairs of equal value and like brightness: neighbours when sorted, then two apart, ..."""
    order = np.lexsort((brightness, values))
    ranked, light = values[order], brightness[order]
    window = difference + ROUNDING
    for distance in range(1, len(values)):
        equal = ranked[distance:] == ranked[:-distance]
        places = np.flatnonzero(equal & (light[distance:] - light[:-distance] <= window))
        if not len(places):
            return  # farther apart, pairs differ even more
        one, other = order[places], order[places + distance]
        yield np.minimum(one, other), np.maximum(one, other)


def _differences(
    thumbnails: NDArray[np.uint8], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the root mean square difference in grey levels: an object weighs more than noise does."""
    parts = [np.empty(0, np.float32)]
    for start in range(0, len(first), CHUNK_PAIRS):
        chunk = slice(start, start + CHUNK_PAIRS)
        gap = thumbnails[first[chunk]].astype(np.float32) - thumbnails[second[chunk]]
        parts.append(np.sqrt(np.square(gap).mean(axis=1, dtype=np.float32)))
    return np.concatenate(parts)


def _same_bytes(table: pa.Table) -> Iterator[tuple[int, int]]:
    """Yield the pairs of equal images; of a large group only those with the first of each split."""
    firsts: dict[tuple[str, str], int] = {}
    digests, splits = table.column("sha256").to_pylist(), table.column("split").to_pylist()
    for row, (digest, split) in enumerate(zip(digests, splits, strict=True)):
        firsts.setdefault((digest, split), row)
    for row, digest in enumerate(digests):
        for split in (*LEARNED, "test"):
            first = firsts.get((digest, split), row)
            if first != row:
                yield first, row


def _note(
    splits: NDArray[np.object_],
    first: int,
    second: int,
    same_split: dict[int, int],
    leaked: dict[int, int],
    leaked_tests: dict[int, int],
) -> None:
    if splits[first] == splits[second]:
        same_split.setdefault(second, first)
    elif "test" in (splits[first], splits[second]):
        test, seen = (first, second) if splits[first] == "test" else (second, first)
        leaked.setdefault(seen, test)
        leaked_tests.setdefault(test, seen)


def _arrays(table: pa.Table) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    hashes = table.column("difference_hash").to_numpy()
    raw = b"".join(table.column("thumbnail").to_pylist())
    return hashes, np.frombuffer(raw, np.uint8).reshape(len(hashes), THUMBNAIL_SIDE * THUMBNAIL_SIDE * 3)
