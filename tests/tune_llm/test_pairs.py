"""Pairs of captions: drawn anew each epoch, the same in every run, of one kind a batch."""

from __future__ import annotations

import pytest

from components.faults import ConfigurationFault
from components.settings.tune_llm import PairKind, Phase
from components.tune_llm.caption_rows import CaptionRow
from components.tune_llm.pairs import PairDraws

ROWS = [
    CaptionRow(
        f"key{number}", {"short": [f"s{number}"], "dense": [f"d{number}{place}" for place in range(4)]}
    )
    for number in range(12)
] + [CaptionRow("key_de", {"short": ["s_de"], "german": ["g_de"]}), CaptionRow("other", {"german": ["g"]})]


def phase(*pairs: tuple[str, str, float], batch_size: int = 6, steps: int = 40) -> Phase:
    return Phase(
        steps=steps,
        batch_size=batch_size,
        learning_rate=0.1,
        warmup_steps=0,
        pairs=[PairKind(first=first, second=second, weight=weight) for first, second, weight in pairs],
    )


def test_each_epoch_holds_every_row_once_with_other_captions() -> None:
    draws = PairDraws(ROWS, phase(("dense", "dense", 1.0)), seed=7)
    epochs = [
        [pair for step in (epoch * 2, epoch * 2 + 1) for pair in zip(*draws.batch(step), strict=True)]
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
    starts = [{first[0] for first in draws.batch(step)[0]} for step in range(200)]
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
    with pytest.raises(ConfigurationFault, match=message):
        PairDraws(ROWS, phase(*pairs), seed=1)
