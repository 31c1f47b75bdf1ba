"""Between the phases: what masked prediction taught is kept, and how a model attends while it learns."""

from __future__ import annotations

import hashlib
import shutil
from typing import Any

import pytest
import torch
from transformers import AutoModel

from components.errors import ConfigurationError
from components.ml.text.encoder import TextEncoder, encode
from components.running import training
from components.running.training import TrainingRun
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.tune_llm import Mntp
from components.storage.layout import Layout
from components.storage.manifest import write_manifest
from components.tune_llm import caption_retrieval, phases, stage, tuning
from components.tune_llm.phases import held_precision, load_base, opened, tune
from components.tune_llm.training_data import TrainingData
from tests.captioned import store_llm
from tests.language_models import write_gemma3

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
    trained = tune(material, encoder, env)
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


def halved(smoke: Params) -> Params:
    own = smoke.tune_llm
    # few steps, for bf16 is slow on some processors
    phases = [phase.model_copy(update={"steps": 3}) for phase in own.phases]
    update = {"precision": "bf16", "mntp": None, "phases": phases}
    return smoke.model_copy(update={"tune_llm": own.model_copy(update=update)})


def test_equal_weights_in_either_kind_of_file_learn_the_same_to_the_bit(
    layout: Layout, smoke: Params, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[set[torch.dtype]] = []
    measured: list[str] = []
    train, llm_figures, open_weights = training.train, caption_retrieval.llm_figures, tuning.open_weights

    def watched_train(run: TrainingRun, *more: Any) -> list[dict[str, float]]:  # noqa: ANN401 - what `train` takes
        weights = run.modules["llm"].parameters()
        trained.append({weight.dtype for weight in weights if not weight.requires_grad})
        return train(run, *more)

    def watched_figures(encoder: TextEncoder, *more: Any) -> Any:  # noqa: ANN401 - what `llm_figures` takes
        measured.append(encoder.precision)
        return llm_figures(encoder, *more)

    def rounded_start(encoder: TextEncoder, *more: Any) -> Any:  # noqa: ANN401 - what `open_weights` takes
        adapter = open_weights(encoder, *more)
        for name, weight in encoder.model.named_parameters():
            if "lora_A" in name:  # which PEFT draws in the precision of the weight beside it
                weight.data = weight.data.bfloat16().float()
        return adapter

    monkeypatch.setattr(phases, "open_weights", rounded_start)
    monkeypatch.setattr(phases, "train", watched_train)
    monkeypatch.setattr(stage, "llm_figures", watched_figures)
    params = halved(smoke)
    saved = []
    for dtype in (torch.bfloat16, torch.float32):
        store_llm(layout, dtype)
        stage.run(params, env)
        folder = layout.artifact("tune_llm")
        saved.append(
            [
                hashlib.sha256((folder / name).read_bytes()).hexdigest()
                for name in ("adapter/adapter_model.safetensors", "llm/model.safetensors", "history.csv")
            ]
        )
        assert AutoModel.from_pretrained(folder / "llm", dtype="auto").dtype is torch.float32
    assert saved[0] == saved[1]
    assert trained == [{torch.bfloat16}] * 4  # two phases each
    assert measured == ["bf16", "bf16", "fp32", "fp32"]  # base and tuned


@pytest.mark.parametrize(
    ("dtype", "update", "expected"),
    [
        (torch.bfloat16, {"precision": "bf16"}, "bf16"),
        (torch.bfloat16, {"precision": "fp32"}, "fp32"),
        (torch.bfloat16, {"precision": "bf16", "method": "full", "lora": None}, "fp32"),
        (torch.bfloat16, {"precision": "bf16", "mntp": True}, "fp32"),
        (torch.float32, {"precision": "bf16"}, "fp32"),
    ],
)
def test_float32_is_for_what_bf16_would_lose(
    layout: Layout, smoke: Params, dtype: torch.dtype, update: dict[str, Any], expected: str
) -> None:
    own = smoke.tune_llm.model_copy(update={"mntp": None, **update})
    assert held_precision(own, store_llm(layout, dtype)) == expected


@pytest.mark.integration
def test_gemma_survives_saving_too(layout: Layout, smoke: Params, env: Environment) -> None:
    base = layout.artifact("base_models")
    shutil.rmtree(base / "llm")
    write_gemma3(base / "llm", hidden_size=72)
    params = halved(smoke)
    assert held_precision(params.tune_llm, store_llm(layout, torch.bfloat16)) == "bf16"
    stage.run(params, env)
    assert (layout.artifact("tune_llm") / "llm" / "model.safetensors").is_file()


def test_a_damaged_model_is_refused_by_who_loads_it(layout: Layout, smoke: Params, env: Environment) -> None:
    path = store_llm(layout, torch.bfloat16) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    write_manifest(layout.artifact("base_models"))
    with pytest.raises(ConfigurationError, match="holds no language model and tokenizer that load"):
        stage.run(halved(smoke), env)
