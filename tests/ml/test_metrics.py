from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from components.ml import metrics
from components.ml.metrics import (
    alignment,
    chance_of_hit,
    distinct,
    ranks_from_scores,
    recall_difference,
    recalls,
    top,
    true_ranks,
    uniformity,
)


def _ranks_by_sorting(scores: Tensor, is_true: Tensor) -> list[int]:
    """The definition, slowly: false candidates at or above the best true one."""
    found = []
    for row, truth in zip(scores.tolist(), is_true.tolist(), strict=True):
        best = max(score for score, true in zip(row, truth, strict=True) if true)
        found.append(
            sum(score >= best - metrics.TIE for score, true in zip(row, truth, strict=True) if not true)
        )
    return found


def test_ranks_of_a_matrix_made_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.4], [0.3, 0.2, 0.1]])
    assert ranks_from_scores(scores, torch.eye(3, dtype=torch.bool)).tolist() == [0, 1, 2]


def test_any_of_several_true_candidates_counts() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
    assert ranks_from_scores(scores, torch.tensor([[False, True, False, True]])).tolist() == [1]
    assert ranks_from_scores(scores, torch.tensor([[True, True, False, False]])).tolist() == [0]


def test_ties_count_against_the_query() -> None:
    scores = torch.full((2, 5), 0.5)
    assert ranks_from_scores(scores, torch.eye(2, 5, dtype=torch.bool)).tolist() == [4, 4]


def test_equal_rows_tie_wherever_they_stand() -> None:
    row = F.normalize(torch.randn(1, 37), dim=1)
    candidates = row.repeat(1001, 1)
    ranks = true_ranks(row.repeat(3, 1), candidates, torch.tensor([0, 500, 1000]), torch.arange(1001))
    assert ranks.tolist() == [1000, 1000, 1000]


def test_ragged_captions_both_ways() -> None:
    images = torch.eye(3)
    captions = F.normalize(
        torch.tensor([[1.0, 0.1, 0.0], [0.0, 0.1, 1.0], [0.0, 1.0, 0.1], [0.1, 0.2, 1.0]]), dim=1
    )
    owners = torch.tensor([0, 0, 1, 2])
    assert true_ranks(captions, images, owners, torch.arange(3)).tolist() == [0, 2, 0, 0]
    assert true_ranks(images, captions, torch.arange(3), owners).tolist() == [0, 0, 1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 7), st.integers(1, 9))
def test_chunks_and_order_change_nothing(seed: int, images: int, extra: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    owners = torch.cat([torch.arange(images), torch.randint(images, (extra,), generator=generator)])
    image_rows = F.normalize(torch.randn(images, 4, generator=generator), dim=1)
    text_rows = F.normalize(torch.randn(len(owners), 4, generator=generator), dim=1)
    expected = _ranks_by_sorting(text_rows @ image_rows.T, owners[:, None] == torch.arange(images))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "CHUNK_SCORES", 2 * images)
        assert true_ranks(text_rows, image_rows, owners, torch.arange(images)).tolist() == expected
    order, columns = (
        torch.randperm(len(owners), generator=generator),
        torch.randperm(images, generator=generator),
    )
    permuted = true_ranks(text_rows[order], image_rows[columns], owners[order], columns)
    assert permuted.tolist() == [expected[row] for row in order.tolist()]


def test_equal_texts_are_one_in_the_order_they_come() -> None:
    texts, groups = distinct(["b", "a", "b", "c"])
    assert texts == ["b", "a", "c"]
    assert groups.tolist() == [0, 1, 0, 2]
    assert distinct([])[1].dtype == torch.long


def test_missing_truth_and_nan_are_refused() -> None:
    with pytest.raises(ValueError, match="no true candidate"):
        true_ranks(torch.eye(2), torch.eye(2), torch.tensor([0, 2]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="not finite"):
        ranks_from_scores(torch.tensor([[math.nan, 0.1]]), torch.tensor([[True, False]]))


def test_top_is_best_first() -> None:
    queries = torch.tensor([[1.0, 0.0]])
    candidates = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.8, 0.6]])
    assert top(queries, candidates, 2).tolist() == [[1, 2]]


def test_recall_counts_hits_and_holds_its_value() -> None:
    found = recalls(torch.tensor([0, 3, 7, 0]), torch.arange(4), [1, 5, 10], 200, 0.95, seed=1)
    assert [found[k].value for k in (1, 5, 10)] == [0.5, 0.75, 1.0]
    assert found[10].low == found[10].high == 1.0
    assert all(found[k].low <= found[k].value <= found[k].high for k in found)
    assert found == recalls(torch.tensor([0, 3, 7, 0]), torch.arange(4), [1, 5, 10], 200, 0.95, seed=1)


def test_interval_is_that_of_the_binomial() -> None:
    ranks = torch.tensor([0, 1] * 200)
    found = recalls(ranks, torch.arange(400), [1], 4000, 0.95, seed=3)[1]
    width = 1.96 * math.sqrt(0.25 / 400)
    assert found.low == pytest.approx(0.5 - width, abs=0.006)
    assert found.high == pytest.approx(0.5 + width, abs=0.006)


def test_images_are_resampled_with_all_their_captions() -> None:
    """Five equal captions an image tell no more than one: the interval must not shrink."""
    ranks = torch.tensor([0, 1] * 50)
    one = recalls(ranks, torch.arange(100), [1], 500, 0.95, seed=3)[1]
    five = recalls(
        ranks.repeat_interleave(5), torch.arange(100).repeat_interleave(5), [1], 500, 0.95, seed=3
    )[1]
    assert (five.low, five.high) == pytest.approx((one.low, one.high))


def test_a_paired_interval_is_narrower_than_two() -> None:
    hard = torch.arange(400) % 2  # every second image is found by neither model
    better = torch.where(torch.arange(400) % 40 == 0, 1, 0)  # and a few of the others by the first alone
    first, second = hard, (hard + better).clamp(max=1)
    found = recall_difference(first, second, torch.arange(400), 1, 2000, 0.95, seed=3)
    assert found.value == pytest.approx(10 / 400)
    width = 1.96 * math.sqrt(0.025 * 0.975 / 400)  # of a share of 2.5 %: the hard ones are no part of it
    assert (found.low, found.high) == pytest.approx((0.025 - width, 0.025 + width), abs=0.004)
    alone = [recalls(ranks, torch.arange(400), [1], 2000, 0.95, seed=3)[1] for ranks in (first, second)]
    assert alone[0].low < alone[1].high  # apart they say nothing


def test_bootstrap_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, clusters = torch.arange(12) % 3, torch.arange(12) // 2
    whole = recalls(ranks, clusters, [1, 2], 50, 0.9, seed=5)
    monkeypatch.setattr(metrics, "BOOTSTRAP_CHUNK", 6 * 7)
    assert recalls(ranks, clusters, [1, 2], 50, 0.9, seed=5) == whole


def test_chance_levels() -> None:
    assert chance_of_hit(500, torch.ones(7, dtype=torch.long), 5) == pytest.approx(0.01)
    assert chance_of_hit(4, torch.tensor([2]), 2) == pytest.approx(1 - 1 / 6)
    assert chance_of_hit(3, torch.tensor([1]), 10) == 1.0
    assert chance_of_hit(10, torch.tensor([2, 3]), 1) == pytest.approx(0.25)  # mean of labels / classes


def test_alignment_is_the_mean_squared_distance() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert alignment(first, first) == 0
    assert alignment(first, -first) == pytest.approx(4)
    assert alignment(first, first.flip(0)) == pytest.approx(2)


def test_uniformity_of_one_point_and_of_a_cross(monkeypatch: pytest.MonkeyPatch) -> None:
    assert uniformity(torch.tensor([[1.0, 0.0]]).repeat(5, 1)) == pytest.approx(0, abs=1e-6)
    cross = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    # each row sees one at squared distance 4 and two at 2
    expected = math.log((math.exp(-8) + 2 * math.exp(-4)) / 3)
    assert uniformity(cross) == pytest.approx(expected)
    monkeypatch.setattr(metrics, "CHUNK_ROWS", 3)
    assert uniformity(cross) == pytest.approx(expected)
