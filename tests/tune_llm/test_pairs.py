"""Pairs of captions: drawn anew each epoch, the same in every run, of one kind a batch."""

from __future__ import annotations

import pytest
import torch

from components.errors import ConfigurationError
from components.settings.tune_llm import MinedNegatives, PairKind, Phase
from components.tune_llm.caption_rows import CaptionRows
from components.tune_llm.pairs import NOBODY, PairBatch, PairDraws

ROWS = CaptionRows.of(
    {
        f"key{number:02d}": {"short": [f"s{number}"], "dense": [f"d{number}{place}" for place in range(4)]}
        for number in range(12)
    }
    | {"key_de": {"short": ["s_de"], "german": ["g_de"]}, "other": {"german": ["g"]}}
)


def phase(
    *pairs: tuple[str, str, float],
    batch_size: int = 6,
    steps: int = 40,
    negative: str | None = None,
    mined: MinedNegatives | None = None,
) -> Phase:
    return Phase(
        steps=steps,
        batch_size=batch_size,
        learning_rate=0.1,
        warmup_steps=0,
        pairs=[
            PairKind(first=first, second=second, negative=negative, query_prompt="", weight=weight)
            for first, second, weight in pairs
        ],
        mined_negatives=mined,
    )


def pairs_of(batch: PairBatch) -> list[tuple[str, str]]:
    return list(zip(batch.first, batch.second, strict=True))


def test_each_epoch_holds_every_row_once_with_other_captions() -> None:
    draws = PairDraws(ROWS, phase(("dense", "dense", 1.0)), seed=7)
    epochs = [
        [pair for step in (epoch * 2, epoch * 2 + 1) for pair in pairs_of(draws.batch(step))]
        for epoch in range(3)
    ]
    for pairs in epochs:
        assert sorted(first[:-1] for first, _ in pairs) == sorted(f"d{number}" for number in range(12))
        assert all(first[:-1] == second[:-1] and first != second for first, second in pairs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert {frozenset(pair) for pair in epochs[0]} != {frozenset(pair) for pair in epochs[1]}


def test_draws_are_a_function_of_seed_and_step() -> None:
    kinds = phase(("short", "dense", 0.5), ("dense", "dense", 0.5))
    one, again, other = (PairDraws(ROWS, kinds, seed) for seed in (7, 7, 8))
    steps = [5, 2, 39, 2]
    assert [one.batch(step) for step in steps] == [again.batch(step) for step in steps]
    assert [one.batch(step) for step in steps] != [other.batch(step) for step in steps]


def test_a_batch_is_of_one_kind_and_rows_without_its_columns_take_no_part() -> None:
    draws = PairDraws(ROWS, phase(("short", "dense", 3.0), ("dense", "short", 1.0), steps=200), seed=1)
    assert draws.rows_by_kind() == {"short-dense": 12, "dense-short": 12}
    starts = [{first[0] for first in draws.batch(step).first} for step in range(200)]
    assert all(len(kind) == 1 for kind in starts)
    assert 0.6 < sum(kind == {"s"} for kind in starts) / 200 < 0.9


def test_a_kind_of_weight_zero_needs_no_rows() -> None:
    draws = PairDraws(ROWS, phase(("short", "dense", 1.0), ("none", "dense", 0.0)), seed=1)
    assert draws.rows_by_kind() == {"short-dense": 12}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("short", "french", 1.0)], "0 train rows .* french; .* columns of train are dense, german, short"),
        ([("short", "short", 1.0)], "0 train rows"),
        ([("short", "german", 1.0)], "1 train rows"),
        ([("short", "dense", 0.0)], "weight 0"),
    ],
)
def test_columns_that_are_not_there_are_named(pairs: list[tuple[str, str, float]], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PairDraws(ROWS, phase(*pairs), seed=1)


def test_written_negatives_come_with_their_row_and_belong_to_nobody() -> None:
    draws = PairDraws(ROWS, phase(("short", "dense", 1.0), negative="dense"), seed=1)
    batch = draws.batch(3)
    assert [text[:-1] for text in batch.negatives] == [f"d{first[1:]}" for first in batch.first]
    assert batch.negative_rows == [NOBODY] * 6
    with pytest.raises(ConfigurationError, match="0 train rows .* short and dense with german"):
        PairDraws(ROWS, phase(("short", "dense", 1.0), negative="german"), seed=1)


def test_mined_negatives_are_drawn_from_those_near_or_from_all() -> None:
    mined = MinedNegatives(per_pair=2, kept=3, pool_rows=100, max_share_of_positive=0.9)
    draws = PairDraws(ROWS, phase(("short", "dense", 1.0), mined=mined), seed=1)
    assert draws.batch(0).negatives == []
    near = torch.full((12, 3), NOBODY, dtype=torch.int32)
    near[:6] = torch.tensor([6, 7, 8])
    draws.near = [near]
    batch = draws.batch(0)
    assert len(batch.negatives) == 12
    assert [f"d{row}" for row in batch.negative_rows] == [text[:-1] for text in batch.negatives]
    for place, row in enumerate(batch.rows):
        of_row = batch.negative_rows[2 * place : 2 * place + 2]
        if row < 6:
            assert set(of_row) <= {6, 7, 8} and len(set(of_row)) == 2
    assert batch == draws.batch(0)
