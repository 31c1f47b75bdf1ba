"""Exact and near duplicates, within a split and across splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.audit.images import SPLITS
from components.audit.near_duplicates.comparison import NONE, Alike
from components.audit.near_duplicates.fingerprints import Fingerprints
from components.audit.near_duplicates.hash_buckets import Rows
from components.audit.near_duplicates.similar import find_similar


class Likes(Mapping[int, int]):
    """Rows, each with the row it is like, in the order of the rows; 16 bytes a row that has one.

    Args:
        like: (N,) of each row, or `NONE`.
    """

    def __init__(self, like: Rows) -> None:
        self.rows: Rows = np.flatnonzero(like != NONE)
        self.others: Rows = like[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows.tolist())

    def __getitem__(self, row: int) -> int:
        place = int(np.searchsorted(self.rows, row))
        if place == len(self.rows) or self.rows[place] != row:
            raise KeyError(row)
        return int(self.others[place])


@dataclass(frozen=True)
class Duplicates:
    """Row numbers, each with that of the row it is like.

    Attributes:
        exact: Rows whose bytes came earlier in the same split.
        near: Other rows that look like an earlier one of the same split.
        leaked: Rows of train or validation that are also in test, exactly or nearly.
        leaked_tests: The rows of test that they are like.
    """

    exact: Mapping[int, int]
    near: Mapping[int, int]
    leaked: Mapping[int, int]
    leaked_tests: Mapping[int, int]


def find_duplicates(found: Fingerprints, alike: Alike, work: Path, processes: int) -> Duplicates:
    """Find duplicates within splits, and rows of train or validation that are also in test.

    Each row is given with the first one that it is like; one of equal bytes goes before one that looks alike.

    Args:
        found: Fingerprints of all images.
        alike: What counts as the same.
        work: The stage's folder in the work store.
        processes: How many to work with.
    """
    splits = found.images.splits
    similar = find_similar(found.hashes, splits, found.thumbnails, alike, work, processes)
    exact, across = _same_bytes(found.digests, splits)
    near = np.where(exact == NONE, similar.earlier, NONE)
    across = np.where(across == NONE, similar.across, across)
    is_test = splits == SPLITS.index("test")
    return Duplicates(
        Likes(exact),
        Likes(near),
        Likes(np.where(is_test, NONE, across)),
        Likes(np.where(is_test, across, NONE)),
    )


def _same_bytes(digests: NDArray[np.uint64], splits: NDArray[np.uint8]) -> tuple[Rows, Rows]:
    """Return of each row the first earlier one of equal bytes in its split, and the first across."""
    earlier, across = np.full(len(splits), NONE), np.full(len(splits), NONE)
    order = np.argsort(digests[:, 0], kind="stable")
    equal = np.flatnonzero(digests[order[1:], 0] == digests[order[:-1], 0])
    several = np.unique(order[np.concatenate([equal, equal + 1])])
    if not len(several):
        return earlier, across
    _, groups = np.unique(digests[several], axis=0, return_inverse=True)
    groups = groups.reshape(-1)
    nowhere = len(splits)
    firsts = np.full((len(SPLITS), groups.max() + 1), nowhere)
    np.minimum.at(firsts, (splits[several], groups), several)
    test = SPLITS.index("test")
    learned = np.delete(firsts, test, axis=0).min(axis=0)
    own = firsts[splits[several], groups]
    other = np.where(splits[several] == test, learned[groups], firsts[test][groups])
    earlier[several] = np.where(own < several, own, NONE)
    across[several] = np.where(other < nowhere, other, NONE)
    return earlier, across
