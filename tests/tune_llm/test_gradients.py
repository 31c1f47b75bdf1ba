"""A batch's gradients are the same numbers in one process and in two: no factor, no share left out."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from components.ml.distributed import full_tensor, is_sharded
from components.ml.text.encoder import load_text_encoder
from components.settings.params import load_params
from components.settings.tune_llm import Mntp, TuneLlm
from components.tune_llm.caption_rows import CaptionRows
from components.tune_llm.masking import masking_run
from components.tune_llm.pairs import NOBODY, PairBatch
from components.tune_llm.phases import opened
from components.tune_llm.tuning import batch_backward, parameter_groups
from tests.captioned import write_llm
from tests.conftest import ROOT
from tests.gloo import in_processes

pytestmark = pytest.mark.integration

FIRST = ["a red circle", "two dogs play in the snow", "a cat", "a red circle", "blue squares everywhere"]
SECOND = ["one circle that is red", "dogs", "a cat on a mat with a hat", "Circle, red", "squares, blue ones"]
BATCH = PairBatch(FIRST, SECOND, "find: ", list(range(5)), ["a horse that runs", "two cats"], [NOBODY, 2])
LAYOUTS, CACHED = ("replicated", "sharded"), (False, True)
CLOSE = 1e-5  # of a gradient's length


def learnt(folder: Path, own: TuneLlm, layout: str) -> dict[str, Any]:
    """Return the loss of `BATCH` and its gradients, whole, as this process has them after the backward."""
    encoder = load_text_encoder(
        folder, attention="bidirectional", pooling="mean", template="{text}", max_tokens=64
    )
    with opened(encoder, own, layout, seed=1):
        for name, weight in encoder.model.named_parameters():
            if ".lora_B." in name:  # zeros, under which the other matrix learns nothing
                nn.init.normal_(weight, generator=torch.Generator().manual_seed(weight.numel()))
        groups = parameter_groups(encoder.model, 0.1, 1.0)
        loss = batch_backward(encoder, own, BATCH, [weight for group in groups for weight in group["params"]])
        named = dict(encoder.model.named_parameters())
        return {
            "loss": loss.item(),
            "sharded": sorted(name for name, weight in named.items() if is_sharded(weight)),
            "gradients": {
                name: full_tensor(weight.grad) for name, weight in named.items() if weight.grad is not None
            },
        }


def masked(folder: Path) -> dict[str, Any]:
    """Return the loss of the first step of masked prediction and its gradients."""
    encoder = load_text_encoder(
        folder, attention="bidirectional", pooling="mean", template="{text}", max_tokens=64
    )
    own = own_of(False).model_copy(update={"max_gradient_norm": 1e9})
    mntp = Mntp(
        columns=["short"],
        steps=1,
        batch_size=6,
        learning_rate=1e-9,
        warmup_steps=0,
        masked_share=0.4,
        mask="a",
    )
    rows = CaptionRows.of({str(row): {"short": [text]} for row, text in enumerate(FIRST + SECOND)})
    encoder.model.requires_grad_(True)
    torch.manual_seed(5)
    loss = masking_run(encoder, folder, own, mntp, rows, "mntp", 3).step(0)
    named = dict(encoder.model.named_parameters())
    gradients = {name: weight.grad for name, weight in named.items() if weight.grad is not None}
    return {"loss": loss.item(), "sharded": [], "gradients": gradients}


def own_of(is_cached: bool, method: str = "full") -> TuneLlm:
    smoke = load_params(ROOT / "presets" / "smoke.yaml").tune_llm
    lora = smoke.lora.model_copy(update={"dropout": 0.0}) if smoke.lora and method == "lora" else None
    return smoke.model_copy(
        update={
            "method": method,
            "lora": lora,
            "chunks": 2,
            "gradient_cache": is_cached,
            "same_side_negatives": True,
        }
    )


def all_learnt(folder: Path) -> dict[str, Any]:
    """Return what is learnt in each layout, without the gradient cache and with it, and from masked texts."""
    found = {
        f"{layout} {is_cached}": learnt(folder, own_of(is_cached), layout)
        for layout, is_cached in product(LAYOUTS, CACHED)
    }
    of_lora = {
        f"lora {is_cached}": learnt(folder, own_of(is_cached, "lora"), LAYOUTS[0]) for is_cached in CACHED
    }
    return {**found, **of_lora, "masked": masked(folder)}


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
    assert not alone["sharded"]
    names = sorted(alone["gradients"])
    for found in (one[f"{layout} {is_cached}"] for one in together):
        assert found["sharded"] == (names if layout == "sharded" else [])
        check_equal(found, alone)


@pytest.mark.parametrize("is_cached", CACHED)
def test_two_processes_have_the_gradients_of_one_lora(
    folder: Path, together: list[dict[str, Any]], is_cached: bool
) -> None:
    alone = learnt(folder, own_of(is_cached, "lora"), LAYOUTS[0])
    assert {name.rsplit(".", 3)[1] for name in alone["gradients"]} == {"lora_A", "lora_B"}
    for found in (one[f"lora {is_cached}"] for one in together):
        check_equal(found, alone)


def test_two_processes_mask_the_tokens_that_one_masks(folder: Path, together: list[dict[str, Any]]) -> None:
    for found in together:
        check_equal(found["masked"], masked(folder))


def check_equal(found: dict[str, Any], alone: dict[str, Any]) -> None:
    assert found["loss"] == pytest.approx(alone["loss"], rel=CLOSE)
    assert sorted(found["gradients"]) == sorted(alone["gradients"])
    for name, gradient in alone["gradients"].items():
        away = (found["gradients"][name] - gradient).norm() / gradient.norm()  # NaN were nothing learnt
        assert float(away) < CLOSE, name
