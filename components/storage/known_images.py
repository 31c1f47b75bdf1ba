"""Find results of single images again by the sha256 of the picture, whatever shard and key it had.

A result of a shard lies in a folder named by the hash of the tar, below a folder for all that decides it
besides the pictures. Shards are written once, so the result of a known one is complete. `images.parquet` in
it says which pictures it has; a new shard takes from there what holds one of them (docs/identity.md).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.storage.manifest import Entry
from components.storage.result_cache import is_intact
from components.storage.shards import image_table
from components.storage.side_tables import read_table, write_table

TABLE = "images.parquet"
PICTURES = pa.schema([("key", pa.string()), ("sha256", pa.string())])
HEX_DIGITS = 16  # of a sha256: enough to look it up; what is found is compared in full
Lines = dict[str, int]  # lines of a result by the sha256 of their picture


def write_pictures(folder: Path, keys: Sequence[str], sha256s: Sequence[str]) -> None:
    """Write which pictures a result has, in the order of its lines."""
    write_table(folder / TABLE, pa.table([keys, sha256s], schema=PICTURES))


def read_pictures(folder: Path) -> pa.Table:
    """Return which pictures a result has (`PICTURES`)."""
    return read_table(folder / TABLE, PICTURES)


class KnownImages:
    """The images of new shards that earlier results have.

    Memory: 16 bytes for each image of a new shard.

    Args:
        store: Folder of the results of one kind, with all that decides them in its name.
        download: Folder of the artifact of download.
        shards: New shards, which have no result.
    """

    def __init__(self, store: Path, download: Path, shards: Sequence[Entry]) -> None:
        self._folders = sorted(path.parent for path in store.glob(f"[0-9a-f]*/{TABLE}")) if shards else []
        parts = [np.empty(0, np.uint64)]
        if self._folders:
            parts += [_digests(image_table(download, shard)["sha256"]) for shard in shards]
        self._digests = np.unique(np.concatenate(parts))
        self._numbers = np.full(len(self._digests), -1, np.int32)
        for number, folder in enumerate(self._folders):
            digests = _digests(read_pictures(folder)["sha256"])
            self._numbers[self._places(digests[self._are_known(digests)])] = number

    def find(self, sha256s: Iterable[str]) -> Mapping[Path, Lines]:
        """Return the folders that have some of these pictures, with the lines; damaged ones are left out."""
        asked = list(dict.fromkeys(sha256s))
        digests = _digests(pa.chunked_array([pa.array(asked, pa.string())]))
        indices = np.flatnonzero(self._are_known(digests))
        numbers = self._numbers[self._places(digests[indices])]
        by_folder: dict[Path, set[str]] = defaultdict(set)
        for index, number in zip(indices.tolist(), numbers.tolist(), strict=True):
            if number >= 0:
                by_folder[self._folders[number]].add(asked[index])
        found = {}
        for folder, wanted in by_folder.items():
            if is_intact(folder):
                pictures = read_pictures(folder)["sha256"].to_pylist()
                found[folder] = {sha256: line for line, sha256 in enumerate(pictures) if sha256 in wanted}
        return found

    def _are_known(self, digests: NDArray[np.uint64]) -> NDArray[np.bool_]:
        if not len(self._digests):
            return np.zeros(len(digests), bool)
        places = np.minimum(self._places(digests), len(self._digests) - 1)
        known: NDArray[np.bool_] = self._digests[places] == digests
        return known

    def _places(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        return np.searchsorted(self._digests, digests)


def _digests(sha256s: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return (n,) the first half of the first half of each hash, as numbers."""
    return np.array([int(sha256[:HEX_DIGITS], 16) for sha256 in sha256s.to_pylist()], np.uint64)
