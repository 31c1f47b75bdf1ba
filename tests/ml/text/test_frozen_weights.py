"""Frozen weights in bf16: back to the bit afterwards, and what learns learns nearly the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.ml.precision import autocast
from components.ml.text.encoder import TextEncoder, embed, load_text_encoder, tokenise
from components.ml.text.frozen_weights import frozen_in_bf16
from components.settings.tune_llm import Lora
from components.tune_llm.tuning import open_weights
from tests.captioned import write_llm

TEXTS = ["a red circle and a blue square", "two dogs play in the snow"]
LORA = Lora(rank=4, alpha=8, dropout=0.0, targets=["q_proj", "v_proj", "down_proj"])


@pytest.fixture
def encoder(tmp_path: Path) -> TextEncoder:
    write_llm(tmp_path, TEXTS * 3)
    loaded = load_text_encoder(
        tmp_path, attention="bidirectional", pooling="mean", template="{text}", max_tokens=64
    )
    open_weights(loaded, LORA, seed=1)
    return loaded


def state(encoder: TextEncoder) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in encoder.model.named_parameters()}


def gradients(encoder: TextEncoder) -> Tensor:
    """Return those of what learns, of one sum over embeddings."""
    learning = [weight for weight in encoder.model.parameters() if weight.requires_grad]
    for weight in learning:
        weight.grad = None
    with autocast(encoder.device, "bf16"):
        found = embed(encoder, tokenise(encoder, TEXTS))
    (found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum().backward()
    return torch.cat([weight.grad.flatten() for weight in learning if weight.grad is not None])


def test_frozen_weights_are_halved_within_and_come_back_to_the_bit(encoder: TextEncoder) -> None:
    with torch.no_grad():
        exact = encoder.model.get_input_embeddings().weight  # type: ignore[operator]
        exact.copy_(exact.bfloat16())  # as published weights are: nothing of these is kept
    before = state(encoder)
    with frozen_in_bf16(encoder.model):
        kinds = {(weight.requires_grad, weight.dtype) for weight in encoder.model.parameters()}
        assert kinds == {(False, torch.bfloat16), (True, torch.float32)}
    after = state(encoder)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_they_come_back_after_a_failure_and_what_learned_stays(encoder: TextEncoder) -> None:
    before = state(encoder)
    learned = next(name for name in before if "lora_B" in name)
    with pytest.raises(KeyboardInterrupt), frozen_in_bf16(encoder.model):
        with torch.no_grad():
            encoder.model.get_parameter(learned).add_(1.0)
        raise KeyboardInterrupt
    after = state(encoder)
    assert torch.equal(after.pop(learned), before.pop(learned) + 1.0)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_learns_has_about_the_same_gradient(encoder: TextEncoder) -> None:
    whole = gradients(encoder)
    with frozen_in_bf16(encoder.model):
        halved = gradients(encoder)
    assert whole.norm() > 0
    assert torch.nn.functional.cosine_similarity(whole, halved, dim=0) > 0.999
