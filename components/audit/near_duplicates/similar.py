"""Near duplicates of each image, without comparing all pairs.

Images are put into cells as wide as two that look the same may differ, by as many contrasts as leave
a few dozen in a cell, and one is compared with those of its own and the adjacent cells only. Of photographs,
three contrasts leave 1.8 % of all pairs and six 0.2 %. What a pair then costs is the comparison of two
hashes, about a nanosecond: a million images take 15 CPU seconds. With cells as small as they get, the work
grows with the square of the images. An image that has found its first is compared no more, so many that all
look the same cost little.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.audit.images import LEARNED, SPLITS, Thumbnails
from components.audit.near_duplicates.comparison import NONE, Alike, ImageComparison
from components.audit.near_duplicates.hash_buckets import HashBuckets, Rows, contrasts_of
from components.running.jobs import Modules, ProgressReporter
from components.running.progress import Progress
from components.running.workers import finished_pieces
from components.storage.atomic import content_key, read_json, remove, write_json
from components.storage.computed import code_of
from components.storage.result_cache import get_or_build

JOB_ROWS = 1 << 17
FOUND, COMPARED = "found.npy", "compared.json"
MODULES = Modules(imported=("components.audit.near_duplicates.similar",), blocked_imports=("pandas", "torch"))


@dataclass(frozen=True)
class Similar:
    """Of each image (N,) the first row that looks like it, or `NONE`.

    Attributes:
        earlier: Of the same split and before it.
        across: Of test for an image that is learned from, and the other way round.
        compared: How many pairs of hashes and of thumbnails were compared.
    """

    earlier: Rows
    across: Rows
    compared: int


@dataclass(frozen=True)
class Search:
    """The images of some cells compared with those of the cells beside them; a job for another process.

    Attributes:
        folder: What `find_similar` wrote.
        store: Where finished pieces of this very search are kept.
        thumbnails: Of all images.
        alike: What counts as the same.
        first: Number of the first cell.
        last: Number of the cell after the last.
    """

    folder: Path
    store: Path
    thumbnails: Thumbnails
    alike: Alike
    first: int
    last: int

    def __call__(self, reporter: ProgressReporter) -> Path:
        """Return the finished piece: rows, what each is like, and how many pairs were compared."""
        made = get_or_build(self.store, f"{self.first:012d}", self._make)
        starts = self._array("starts")
        reporter.advance(int(starts[self.last] - starts[self.first]))
        return made

    def _make(self, folder: Path) -> None:
        order, starts, ids, steps = (self._array(name) for name in ("order", "starts", "ids", "steps"))
        splits = self._array("splits")
        comparison = ImageComparison(self._array("hashes"), self.thumbnails, self.alike)
        rows = np.array(order[starts[self.first] : starts[self.last]])
        earlier, across = np.full(len(rows), NONE), np.full(len(rows), NONE)
        for cell in range(self.first, self.last):
            here = slice(*(starts[cell : cell + 2] - starts[self.first]))
            mine, near = rows[here], _beside(ids[cell] + steps, ids, order, starts)
            of_mine, of_near = splits[mine], splits[near]
            for split in np.unique(of_mine):
                places = np.flatnonzero(of_mine == split)
                earlier[here][places] = comparison.first_earlier(mine[places], near[of_near == split])
                others = near[np.isin(of_near, _across(int(split)))]
                across[here][places] = comparison.first(mine[places], others)
        np.save(folder / FOUND, np.stack([rows, earlier, across]))
        write_json(folder / COMPARED, comparison.compared)

    def _array(self, name: str) -> Any:  # noqa: ANN401 - a memory map
        return np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)


def _beside(middles: Rows, ids: Rows, order: Rows, starts: Rows) -> Rows:
    """Return by number the rows of cells and of those right beside them in the order of ids."""
    begins, ends = np.searchsorted(ids, middles - 1), np.searchsorted(ids, middles + 1, side="right")
    parts = [order[starts[b] : starts[e]] for b, e in zip(begins, ends, strict=True) if e > b]
    return np.sort(np.concatenate(parts), kind="stable")  # merges what is sorted in parts


def _across(split: int) -> list[int]:
    test = SPLITS.index("test")
    return [SPLITS.index(name) for name in LEARNED] if split == test else [test]


def find_similar(
    hashes: NDArray[np.uint64],
    splits: NDArray[np.uint8],
    thumbnails: Thumbnails,
    alike: Alike,
    work: Path,
    processes: int,
) -> Similar:
    """Return what every image is like; 60 bytes an image are in memory.

    Args:
        hashes: (N,) difference hashes.
        splits: (N,) places in `SPLITS`.
        thumbnails: Of all.
        alike: What counts as the same.
        work: The stage's folder in the work store.
        processes: How many to work with.
    """
    code = code_of(work, "audit", "similar_images")
    folder, store = work / "search", work / "similar" / _identity(code, hashes, splits, thumbnails, alike)
    remove(folder)
    folder.mkdir(parents=True)
    cells = HashBuckets(contrasts_of(thumbnails), alike.difference)
    arrays: dict[str, NDArray[Any]] = {
        "order": cells.order,
        "starts": cells.starts,
        "ids": cells.ids,
        "steps": cells.neighbours(),
        "hashes": hashes,
        "splits": splits,
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    jobs = [Search(folder, store, thumbnails, alike, *part) for part in _parts(cells.starts)]
    earlier, across, compared = np.full(len(hashes), NONE), np.full(len(hashes), NONE), 0
    progress = Progress(work, "audit duplicates", len(hashes), "images")
    with finished_pieces(jobs, min(processes, len(jobs)), progress, MODULES, store) as finished:
        for made in finished:
            rows, *found = np.load(made / FOUND, allow_pickle=False)
            earlier[rows], across[rows] = found
            compared += read_json(made / COMPARED)
    remove(folder)
    return Similar(earlier, across, compared)


def _identity(
    code: str, hashes: NDArray[np.uint64], splits: NDArray[np.uint8], thumbnails: Thumbnails, alike: Alike
) -> str:
    """Return the name of a search; thumbnails lie in finished pieces, whose names are of their content."""
    digests = [sha256(array.tobytes()).hexdigest() for array in (hashes, splits)]
    pieces = ["/".join(path.parts[-2:]) for path in thumbnails.paths]
    return content_key([code, digests, pieces, alike.bits, alike.difference])


def _parts(starts: Rows) -> Iterator[tuple[int, int]]:
    """Yield the cells in parts of about `JOB_ROWS` rows."""
    ends = np.searchsorted(starts, np.arange(JOB_ROWS, int(starts[-1]) + JOB_ROWS, JOB_ROWS))
    marks = np.unique(np.minimum([0, *ends], len(starts) - 1))
    yield from ((int(first), int(last)) for first, last in pairwise(marks))
