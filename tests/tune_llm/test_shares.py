"""A batch in chunks: the largest is as small as can be, and every process has as many."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from components.ml import distributed
from components.ml.text.template import Tokens
from components.tune_llm import shares
from components.tune_llm.shares import own_parts, shared_order


def rows_of(lengths: list[int]) -> list[Tokens]:
    return [Tokens((number,) * length, 0, length) for number, length in enumerate(lengths)]


def padded(part: list[Tokens]) -> int:
    return len(part) * max(len(row.ids) for row in part)


def fewest(lengths: list[int], chunks: int) -> int:
    """Return the padded tokens of the largest chunk, by trying all ways to part rising lengths."""
    count = len(lengths)
    return min(
        max((end - start) * lengths[end - 1] for start, end in pairwise([0, *cuts, count]))
        for many in range(min(chunks, count))
        for cuts in combinations(range(1, count), many)
    )


@pytest.mark.parametrize("seed", range(40))
def test_the_largest_chunk_is_as_small_as_can_be(seed: int) -> None:
    draws = np.random.default_rng(seed)
    lengths = draws.integers(1, 13, int(draws.integers(1, 10))).tolist()
    chunks = int(draws.integers(1, 6))
    rows = rows_of(lengths)
    parts = own_parts(rows, shared_order(lengths), chunks, is_lean=True)
    assert sorted(row.ids for part in parts for row in part) == sorted(row.ids for row in rows)
    assert 1 <= len(parts) <= chunks
    assert max(padded(part) for part in parts) == fewest(sorted(lengths), chunks)


def test_few_long_texts_or_many_short_ones() -> None:
    lengths = [2] * 12 + [12, 12]
    rows, order = rows_of(lengths), shared_order(lengths)
    lean = own_parts(rows, order, 3, is_lean=True)
    assert [len(part) for part in lean] == [12, 2]  # a third one would make neither smaller
    assert [padded(part) for part in lean] == [24, 24]
    equal = own_parts(rows, order, 3, is_lean=False)
    assert [len(part) for part in equal] == [5, 5, 4]
    assert [padded(part) for part in equal] == [10, 10, 48]


@pytest.mark.parametrize("is_lean", [True, False])
@pytest.mark.parametrize(("seed", "chunks"), [(5, 1), (5, 2), (2, 3), (0, 5), (5, 5)])
def test_every_process_has_as_many_chunks_of_as_many_texts(
    monkeypatch: pytest.MonkeyPatch, seed: int, chunks: int, is_lean: bool
) -> None:
    lengths = np.random.default_rng(seed).integers(1, 41, 36).tolist()
    for module in (distributed, shares):
        monkeypatch.setattr(module, "world_size", lambda: 3)
    order = shared_order(lengths)
    sizes, seen = [], []
    for number in range(3):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        parts = own_parts(rows_of(lengths), order, chunks, is_lean=is_lean)
        sizes.append([len(part) for part in parts])
        seen += [row.ids[0] for part in parts for row in part]
    assert sizes[0] == sizes[1] == sizes[2]
    assert sorted(seen) == list(range(36))
