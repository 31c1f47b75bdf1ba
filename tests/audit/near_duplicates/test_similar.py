"""The first image that looks the same is found as comparing all pairs finds it, at a fraction of the cost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from components.audit.images import BLOCK_ROWS, SPLITS, Thumbnails
from components.audit.near_duplicates import similar
from components.audit.near_duplicates.comparison import NONE, Alike, differences
from components.audit.near_duplicates.hash_buckets import HashBuckets, contrasts_of
from components.audit.near_duplicates.similar import JOB_ROWS, Similar, _parts, find_similar
from components.storage.atomic import remove

NUMBERS = count()
TEST = SPLITS.index("test")
Stored = Callable[[NDArray[np.uint8]], Thumbnails]


def on_disk(folder: Path, thumbnails: NDArray[np.uint8]) -> Thumbnails:
    """Store thumbnails as two shards."""
    half = len(thumbnails) // 2
    paths = [folder / f"{next(NUMBERS)}.bin" for _ in range(2)]
    for path, part in zip(paths, (thumbnails[:half], thumbnails[half:]), strict=True):
        path.write_bytes(part.tobytes())
    counts = [half, len(thumbnails) - half]
    lines = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
    return Thumbnails(paths, counts, lines, thumbnails.shape[1])


def photographs(draw: np.random.Generator, rows: int) -> NDArray[np.uint8]:
    """Return thumbnails that vary from afar as those of Flickr8k do."""
    shape = (rows, 16, 16, 3)
    found = draw.normal(110, 32, (rows, 1, 1, 1)) + draw.normal(0, 12, shape)
    found += np.linspace(-1, 1, 16)[:, None, None] * draw.normal(0, 40, (rows, 1, 1, 1))
    found += np.linspace(-1, 1, 16)[:, None] * draw.normal(0, 22, (rows, 1, 1, 1))
    found += np.array([1, 0, -1]) * draw.normal(0, 14, (rows, 1, 1, 1))
    return found.clip(0, 255).astype(np.uint8).reshape(rows, -1)


def one_by_one(
    hashes: NDArray[np.uint64], splits: NDArray[np.uint8], thumbnails: NDArray[np.uint8], alike: Alike
) -> tuple[list[int], list[int]]:
    earlier, across = [], []
    for row in range(len(hashes)):
        same = np.bitwise_count(hashes ^ hashes[row]) <= alike.bits
        same &= (
            differences(thumbnails, np.broadcast_to(thumbnails[row], thumbnails.shape)) <= alike.difference
        )
        before = np.flatnonzero(same[:row] & (splits[:row] == splits[row]))
        others = np.flatnonzero(same & ((splits == TEST) != (splits[row] == TEST)))
        earlier.append(int(before[0]) if len(before) else NONE)
        across.append(int(others[0]) if len(others) else NONE)
    return earlier, across


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.integers(0, 10), st.sampled_from([0.0, 2.0, 6.0, 40.0]))
def test_cells_find_what_comparing_all_with_all_finds(
    tmp_path: Path, seed: int, bits: int, difference: float
) -> None:
    draw = np.random.default_rng(seed)
    flips = np.uint64(1) << draw.integers(0, 64, (300, 6)).astype(np.uint64)
    hashes = draw.choice(draw.integers(0, 2**63, 3, dtype=np.uint64), 300)
    hashes ^= np.bitwise_xor.reduce(flips[:, : 1 + bits // 2], axis=1)
    base = photographs(draw, 12)[draw.integers(0, 12, 300)].astype(int)
    thumbnails = (base + draw.integers(-4, 5, (300, 1)) + draw.integers(-3, 4, base.shape)).clip(0, 255)
    thumbnails = thumbnails.astype(np.uint8)
    splits = draw.choice(3, 300, p=[0.6, 0.2, 0.2]).astype(np.uint8)
    alike = Alike(bits, difference)
    found = find_similar(hashes, splits, on_disk(tmp_path, thumbnails), alike, tmp_path / "work", 1)
    assert (found.earlier.tolist(), found.across.tolist()) == one_by_one(hashes, splits, thumbnails, alike)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.floats(0, 60))
def test_images_that_may_look_the_same_lie_in_adjacent_cells(
    tmp_path: Path, seed: int, difference: float
) -> None:
    draw = np.random.default_rng(seed)
    ones = draw.integers(0, 256, (200, 768))
    others = (ones + draw.normal(0, difference / 2 + 0.1, (200, 768)).round()).clip(0, 255)
    thumbnails = np.concatenate([ones, others]).astype(np.uint8)
    contrasts = contrasts_of(on_disk(tmp_path, thumbnails))
    gaps = differences(thumbnails[:200], thumbnails[200:])
    assert (np.abs(contrasts[:200] - contrasts[200:]).max(axis=1) <= gaps + 1e-3).all()
    lengths = np.square(contrasts[:200] - contrasts[200:]).sum(axis=1) ** 0.5
    assert (lengths <= gaps + 1e-3).all()  # the directions are orthonormal
    cells = HashBuckets(contrasts, difference)
    place = np.empty(400, np.int64)
    place[cells.order] = np.repeat(cells.ids, np.diff(cells.starts))
    steps = {int(step) + side for step in cells.neighbours() for side in (-1, 0, 1)}
    close = gaps <= difference
    assert set((place[200:] - place[:200])[close].tolist()) <= steps


def search(folder: Path, thumbnails: NDArray[np.uint8], hashes: NDArray[np.uint64]) -> Similar:
    splits = np.zeros(len(hashes), np.uint8)
    return find_similar(hashes, splits, on_disk(folder, thumbnails), Alike(10, 6.0), folder / "work", 1)


def test_of_photographs_few_pairs_are_compared(tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    rows = 20_000
    thumbnails, hashes = photographs(draw, rows), draw.integers(0, 2**63, rows, dtype=np.uint64)
    planted = draw.choice(rows // 2, 50, replace=False)
    thumbnails[rows // 2 + planted], hashes[rows // 2 + planted] = thumbnails[planted] ^ 1, hashes[planted]
    found = search(tmp_path, thumbnails, hashes)
    assert (found.earlier[rows // 2 + planted] == planted).all()
    assert (found.earlier != NONE).sum() == 50
    assert found.compared < 0.08 * rows**2 / 2  # two contrasts leave this share, more rows get more of them


@pytest.mark.parametrize("noise", [1, 3])
def test_many_that_look_the_same_are_not_compared_with_each_other(tmp_path: Path, noise: int) -> None:
    """White paper: one hash, one cell, and thumbnails that are hardly ever equal."""
    rows = 30_000
    draw = np.random.default_rng(7)
    thumbnails = 255 - draw.integers(0, noise, (rows, 768), dtype=np.uint8)
    found = search(tmp_path, thumbnails, np.zeros(rows, np.uint64))
    assert (found.earlier[1:] == 0).all()
    assert found.compared <= 66 * rows


def test_thumbnails_stay_on_disk(tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    rows = 40_000
    thumbnails = on_disk(tmp_path, photographs(draw, rows))
    hashes, splits = draw.integers(0, 2**63, rows, dtype=np.uint64), np.zeros(rows, np.uint8)
    tracemalloc.start()
    find_similar(hashes, splits, thumbnails, Alike(10, 6.0), tmp_path / "work", 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120 * rows + 768 * rows / 2 + 9 * 768 * BLOCK_ROWS  # half of them is one file


def test_parts_hold_every_cell_once() -> None:
    sizes = [1, JOB_ROWS + 5, 3, 0, JOB_ROWS // 2, JOB_ROWS // 2, 7]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    parts = list(_parts(starts))
    assert [cell for first, last in parts for cell in range(first, last)] == list(range(len(sizes)))
    assert list(_parts(np.array([0]))) == []


def test_a_search_that_was_stopped_goes_on_with_the_cells_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similar, "JOB_ROWS", 500)
    draw = np.random.default_rng(7)
    thumbnails = on_disk(tmp_path, photographs(draw, 2000)[draw.integers(0, 1000, 2000)])
    hashes, splits = np.zeros(2000, np.uint64), draw.integers(0, 3, 2000).astype(np.uint8)
    alike = Alike(10, 6.0)
    whole = find_similar(hashes, splits, thumbnails, alike, tmp_path / "undisturbed", 2)
    work = tmp_path / "work"
    first = find_similar(hashes, splits, thumbnails, alike, work, 1)
    pieces = sorted((work / "similar").glob("*/*"))
    assert len(pieces) == 4
    written = [(path / "found.npy").stat().st_mtime_ns for path in pieces]  # an inode would be used again
    remove(pieces[2])
    again = find_similar(hashes, splits, thumbnails, alike, work, 1)
    assert [
        (path / "found.npy").stat().st_mtime_ns == at for path, at in zip(pieces, written, strict=True)
    ] == [
        True,
        True,
        False,
        True,
    ]
    for found in (first, again):
        assert (found.earlier == whole.earlier).all()
        assert (found.across == whole.across).all()
        assert found.compared == whole.compared
    find_similar(hashes ^ np.uint64(1 << 40), splits, thumbnails, alike, work, 1)
    assert len(list((work / "similar").iterdir())) == 2  # other images: another search
