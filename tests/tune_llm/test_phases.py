"""Between the phases: what masked prediction taught is kept, and how a model attends while it learns."""

from __future__ import annotations

import pytest
import torch

from components.ml.text.encoder import encode
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.tune_llm import Mntp
from components.storage.layout import Layout
from components.tune_llm.phases import load_base, opened, tuned_members
from components.tune_llm.training_data import TrainingData

TEXTS = ["a red circle", "ein blaues Quadrat ist links"]


def test_what_masked_prediction_taught_stays(layout: Layout, smoke: Params, env: Environment) -> None:
    own = smoke.tune_llm
    mntp = Mntp(
        columns=["short"],
        steps=2,
        batch_size=4,
        learning_rate=1e-2,
        warmup_steps=0,
        masked_share=0.3,
        mask="a",
    )
    phase = own.phases[0].model_copy(update={"steps": 0})  # whose LoRA is what it starts as: nothing
    update = {"mntp": mntp, "phases": [phase]}
    material = TrainingData(smoke.model_copy(update={"tune_llm": own.model_copy(update=update)}), layout)
    encoder = load_base(material, "cpu")
    base = encode(encoder, TEXTS, 512)
    (trained,) = tuned_members(material, encoder, env)
    trained.encoder.model.eval()
    assert not torch.allclose(encode(trained.encoder, TEXTS, 512), base, atol=1e-3)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(("precision", "is_changed"), [("bf16", True), ("fp32", False)])
def test_on_a_cpu_a_model_attends_in_the_cheaper_way_while_it_learns_in_bf16(
    layout: Layout, smoke: Params, method: str, precision: str, is_changed: bool
) -> None:
    own = smoke.tune_llm.model_copy(update={"method": method, "precision": precision})
    encoder = load_base(TrainingData(smoke, layout), "cpu")
    config = encoder.model.config
    usual = config._attn_implementation  # type: ignore[union-attr]
    assert usual != "eager"
    with opened(encoder, own, "replicated", seed=1):
        assert config._attn_implementation == ("eager" if is_changed else usual)  # type: ignore[union-attr]
    assert config._attn_implementation == usual  # type: ignore[union-attr]
