"""A batch's gradients are the same numbers in one process and in two: no factor, no share left out."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from components.ml.distributed import is_sharded, whole
from components.ml.llm import load_text_encoder
from components.settings.params import load_params
from components.settings.tune_llm import TuneLlm
from components.tune_llm.pairs import NOBODY, Batch
from components.tune_llm.phases import opened
from components.tune_llm.tuning import batch_backward, parameter_groups
from tests.captioned import write_llm
from tests.conftest import ROOT
from tests.gloo import in_processes

FIRST = ["a red circle", "two dogs play in the snow", "a cat", "a red circle", "blue squares everywhere"]
SECOND = ["one circle that is red", "dogs", "a cat on a mat with a hat", "Circle, red", "squares, blue ones"]
BATCH = Batch(FIRST, SECOND, "find: ", list(range(5)), ["a horse that runs", "two cats"], [NOBODY, 2])
LAYOUTS, CACHED = ("replicated", "sharded"), (False, True)
CLOSE = 1e-5  # of a gradient's length


def learnt(folder: Path, own: TuneLlm, layout: str) -> dict[str, Any]:
    """Return the loss of `BATCH` and its gradients, whole, as this process has them after the backward."""
    encoder = load_text_encoder(
        folder, attention="bidirectional", pooling="mean", template="{text}", max_tokens=64
    )
    with opened(encoder, own, layout, seed=1):
        groups = parameter_groups(encoder.model, 0.1, 1.0)
        loss = batch_backward(encoder, own, BATCH, [weight for group in groups for weight in group["params"]])
        named = dict(encoder.model.named_parameters())
        return {
            "loss": loss.item(),
            "sharded": sorted(name for name, weight in named.items() if is_sharded(weight)),
            "gradients": {
                name: whole(weight.grad) for name, weight in named.items() if weight.grad is not None
            },
        }


def own_of(is_cached: bool) -> TuneLlm:
    smoke = load_params(ROOT / "presets" / "smoke.yaml").tune_llm
    return smoke.model_copy(
        update={
            "method": "full",
            "lora": None,
            "chunks": 2,
            "gradient_cache": is_cached,
            "same_side_negatives": True,
        }
    )


def all_learnt(folder: Path) -> dict[str, Any]:
    """Return what is learnt in each layout, without the gradient cache and with it."""
    return {
        f"{layout} {is_cached}": learnt(folder, own_of(is_cached), layout)
        for layout, is_cached in product(LAYOUTS, CACHED)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llm")
    write_llm(path, FIRST + SECOND)
    return path


@pytest.fixture(scope="module")
def together(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has learnt."""
    return in_processes(2, partial(all_learnt, folder), tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("is_cached", CACHED)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_have_the_gradients_of_one(
    folder: Path, together: list[dict[str, Any]], layout: str, is_cached: bool
) -> None:
    alone = learnt(folder, own_of(is_cached), layout)
    names = sorted(alone["gradients"])
    assert not alone["sharded"]
    for found in (one[f"{layout} {is_cached}"] for one in together):
        assert found["sharded"] == (names if layout == "sharded" else [])
        assert found["loss"] == pytest.approx(alone["loss"], rel=CLOSE)
        assert sorted(found["gradients"]) == names
        for name, gradient in alone["gradients"].items():
            away = (found["gradients"][name] - gradient).norm() / gradient.norm()  # NaN were nothing learnt
            assert float(away) < CLOSE, name
