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
    """Mapping of a row to the row it duplicates, in row order; 16 bytes per entry.

    Args:
        like: (N,) the row that each row duplicates, or `NONE`.
    """

    def __init__(self, like: Rows) -> None:
        self.rows: Rows = np.flatnonzero(like != NONE)
        self.others: Rows = like[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows.tolist())

    def __getitem__(self, row: int) -> int:
        index = int(np.searchsorted(self.rows, row))
        if index == len(self.rows) or self.rows[index] != row:
            raise KeyError(row)
        return int(self.others[index])


@dataclass(frozen=True)
class Duplicates:
    """Duplicate rows, each with the row number of its original.

    Attributes:
        exact: Rows with the same bytes as an earlier row of the same split.
        near: Other rows that look like an earlier row of the same split.
        leaked: Rows of train or validation that are also in test, exactly or nearly.
        leaked_tests: Rows of test that are also in train or validation.
    """

    exact: Mapping[int, int]
    near: Mapping[int, int]
    leaked: Mapping[int, int]
    leaked_tests: Mapping[int, int]


def find_duplicates(fingerprints: Fingerprints, alike: Alike, work: Path, processes: int) -> Duplicates:
    """Find duplicates within splits, and rows of train or validation that are also in test.

    Each row is mapped to its first original; one with equal bytes goes before one that only looks alike.

    Args:
        fingerprints: Fingerprints of all images.
        alike: Limits below which images look the same.
        work: The stage's folder in the work store.
        processes: Number of worker processes.
    """
    splits = fingerprints.images.splits
    similar = find_similar(fingerprints.hashes, splits, fingerprints.thumbnails, alike, work, processes)
    exact, across = _same_bytes(fingerprints.digests, splits)
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
    """Return for each row the first earlier row of equal bytes in its split, and the first across splits."""
    earlier, across = np.full(len(splits), NONE), np.full(len(splits), NONE)
    order = np.argsort(digests[:, 0], kind="stable")
    equal = np.flatnonzero(digests[order[1:], 0] == digests[order[:-1], 0])
    candidates = np.unique(order[np.concatenate([equal, equal + 1])])
    if not len(candidates):
        return earlier, across
    _, groups = np.unique(digests[candidates], axis=0, return_inverse=True)
    groups = groups.reshape(-1)
    no_row = len(splits)
    firsts = np.full((len(SPLITS), groups.max() + 1), no_row)
    np.minimum.at(firsts, (splits[candidates], groups), candidates)
    test = SPLITS.index("test")
    learned = np.delete(firsts, test, axis=0).min(axis=0)
    same_split = firsts[splits[candidates], groups]
    other_split = np.where(splits[candidates] == test, learned[groups], firsts[test][groups])
    earlier[candidates] = np.where(same_split < candidates, same_split, NONE)
    across[candidates] = np.where(other_split < no_row, other_split, NONE)
    return earlier, across
