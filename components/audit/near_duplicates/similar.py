"""Find near duplicates of each image without comparing all pairs.

Images are put into cells, and each is compared only with images of its own and adjacent cells. A cell is as
wide as two images that look the same may differ. As many contrasts are used as leave a few dozen images per
cell. For photographs, three contrasts leave 1.8 % of all pairs and six leave 0.2 %. Each remaining pair costs
one comparison of hashes, about a nanosecond: a million images take 15 CPU seconds. Once cells are as small as
possible, the work grows with the square of the number of images. An image is not compared further once its
first match is found, so many images that all look the same cost little.
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
    """For each image (N,) the first row that looks like it, or `NONE`.

    Attributes:
        earlier: First match among earlier rows of the same split.
        across: First match in test for rows of train and validation, and the other way round.
        compared: Number of compared pairs of hashes and of thumbnails.
    """

    earlier: Rows
    across: Rows
    compared: int


@dataclass(frozen=True)
class Search:
    """The job that compares the images of some cells with those of adjacent cells; for another process.

    Attributes:
        folder: Folder of the arrays and thumbnails that `find_similar` wrote.
        store: Folder of cached results of this search.
        alike: Limits below which images look the same.
        first: Index of the first cell.
        last: Index of the cell after the last.
    """

    folder: Path
    store: Path
    alike: Alike
    first: int
    last: int

    def __call__(self, reporter: ProgressReporter) -> Path:
        """Return the folder of the cached result: rows, their matches, and the number of compared pairs."""
        result = get_or_build(self.store, f"{self.first:012d}", self._make)
        starts = self._array("starts")
        reporter.advance(int(starts[self.last] - starts[self.first]))
        return result

    def _make(self, folder: Path) -> None:
        order, starts, ids, steps = (self._array(name) for name in ("order", "starts", "ids", "steps"))
        splits = self._array("splits")
        comparison = ImageComparison(self._array("hashes"), Thumbnails.load(self.folder), self.alike)
        rows = np.array(order[starts[self.first] : starts[self.last]])
        earlier, across = np.full(len(rows), NONE), np.full(len(rows), NONE)
        for cell in range(self.first, self.last):
            cell_slice = slice(*(starts[cell : cell + 2] - starts[self.first]))
            cell_rows, nearby_rows = rows[cell_slice], _rows_around(ids[cell] + steps, ids, order, starts)
            cell_splits, nearby_splits = splits[cell_rows], splits[nearby_rows]
            for split in np.unique(cell_splits):
                indices = np.flatnonzero(cell_splits == split)
                earlier[cell_slice][indices] = comparison.first_earlier(
                    cell_rows[indices], nearby_rows[nearby_splits == split]
                )
                other_rows = nearby_rows[np.isin(nearby_splits, _other_splits(int(split)))]
                across[cell_slice][indices] = comparison.first(cell_rows[indices], other_rows)
        np.save(folder / FOUND, np.stack([rows, earlier, across]))
        write_json(folder / COMPARED, comparison.compared)

    def _array(self, name: str) -> Any:  # noqa: ANN401 - a memory map
        return np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)


def _rows_around(middles: Rows, ids: Rows, order: Rows, starts: Rows) -> Rows:
    """Return the sorted rows of cells with these ids, and of the cells next to them in the order of ids."""
    begins, ends = np.searchsorted(ids, middles - 1), np.searchsorted(ids, middles + 1, side="right")
    parts = [order[starts[b] : starts[e]] for b, e in zip(begins, ends, strict=True) if e > b]
    return np.sort(np.concatenate(parts), kind="stable")  # a stable sort merges sorted parts fast


def _other_splits(split: int) -> list[int]:
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
    """Find for every image the first ones that look like it; memory: 60 bytes per image.

    Args:
        hashes: (N,) difference hashes.
        splits: (N,) indices in `SPLITS`.
        thumbnails: Thumbnails of all images.
        alike: Limits below which images look the same.
        work: The stage's folder in the work store.
        processes: Number of worker processes.
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
    thumbnails.save(folder)
    jobs = [Search(folder, store, alike, *part) for part in _parts(cells.starts)]
    earlier, across, compared = np.full(len(hashes), NONE), np.full(len(hashes), NONE), 0
    progress = Progress(work, "audit duplicates", len(hashes), "images")
    with finished_pieces(jobs, min(processes, len(jobs)), progress, MODULES, store) as finished:
        for result in finished:
            rows, *matches = np.load(result / FOUND, allow_pickle=False)
            earlier[rows], across[rows] = matches
            compared += read_json(result / COMPARED)
    remove(folder)
    return Similar(earlier, across, compared)


def _identity(
    code: str, hashes: NDArray[np.uint64], splits: NDArray[np.uint8], thumbnails: Thumbnails, alike: Alike
) -> str:
    """Return the hash of a search's inputs; thumbnail files are named by their content."""
    arrays = (hashes, splits, thumbnails.lines)
    digests = [sha256(array.tobytes()).hexdigest() for array in arrays]
    thumbnail_files = ["/".join(path.parts[-2:]) for path in thumbnails.paths]
    return content_key([code, digests, thumbnail_files, alike.bits, alike.difference])


def _parts(starts: Rows) -> Iterator[tuple[int, int]]:
    """Yield ranges of cells (first, last) with about `JOB_ROWS` rows each."""
    ends = np.searchsorted(starts, np.arange(JOB_ROWS, int(starts[-1]) + JOB_ROWS, JOB_ROWS))
    bounds = np.unique(np.minimum([0, *ends], len(starts) - 1))
    yield from ((int(first), int(last)) for first, last in pairwise(bounds))
