"""Two processes sum their gradients, whether each holds the whole model or a part; numbers by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.ml.distributed import full_tensor, gradient_factor, is_sharded, rank, shard, sum_gradients
from tests.gloo import in_processes

pytestmark = pytest.mark.integration


def two_models() -> dict[str, Any]:
    """Return what two linear maps learn from a row of this process: (1, 10), or (2, 20) in the other one."""
    row = torch.tensor([[1.0, 10.0]]) * (rank() + 1)
    replicated, sharded = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    shard(sharded, "cpu")
    unused = nn.Parameter(torch.ones(2))
    found: dict[str, Any] = {"is_sharded": [is_sharded(one.weight) for one in (replicated, sharded)]}
    for name, model in (("replicated", replicated), ("sharded", sharded)):
        factor = gradient_factor(model.parameters())
        (model(row).sum() * factor).backward()
        sum_gradients([*model.parameters(), unused])
        found[name] = {"factor": factor, "gradient": full_tensor(_gradient(model.weight))}
    found["factor_of_both"] = gradient_factor([*replicated.parameters(), *sharded.parameters()])
    found["unused"] = unused.grad
    return found


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.grad


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has."""
    return in_processes(2, two_models, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("layout", ["replicated", "sharded"])
def test_every_process_has_the_sum_of_all_gradients(found: list[dict[str, Any]], layout: str) -> None:
    for one in found:
        assert one["is_sharded"] == [False, True]
        assert one[layout]["gradient"].tolist() == [[3.0, 30.0], [3.0, 30.0]]


def test_only_gradients_that_fsdp_averages_are_made_larger_before(found: list[dict[str, Any]]) -> None:
    for one in found:
        assert one["replicated"]["factor"] == 1.0
        assert one["sharded"]["factor"] == one["factor_of_both"] == 2.0


def test_a_weight_that_nothing_was_learnt_for_has_no_gradient_after_the_sum(
    found: list[dict[str, Any]],
) -> None:
    assert [one["unused"] for one in found] == [None, None]


def test_one_process_leaves_its_gradients_as_they_are() -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([3.0, 4.0])
    sum_gradients([weight])
    assert weight.grad.tolist() == [3.0, 4.0]
    assert gradient_factor([weight]) == 1.0
