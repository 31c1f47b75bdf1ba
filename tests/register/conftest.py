"""What the stages before register leave behind, at the smallest size: arms with either text side."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from components.ml.adapter import AdapterConfig, TextAdapter, save_adapter
from components.ml.vision.clip import load_clip, load_clip_tokenizer, save_clip
from components.ml.vision.towers import save_vision_encoder, vision_encoder_of
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import write_json
from components.storage.layout import Layout
from components.storage.manifest import write_manifest
from tests.captioned import write_llm
from tests.clip_project import CONTEXT, make_artifacts

DIM = 16
LLM_WIDTH = 32
TEXTS = ["a large red circle at the top left", "zwei kleine blaue Quadrate", "nothing"]


def figure(value: float) -> dict[str, float | bool]:
    return {"value": value, "low": value / 2, "high": 1.0, "chance": 0.01, "beats_chance": True}


def arm_metrics(value: float) -> dict[str, Any]:
    recalls = {f"recall_at_{k}": figure(value) for k in (1, 5, 10)}
    return {"retrieval": {"dense": {"text_to_image": recalls, "image_to_text": recalls}}, "zero_shot": {}}


@pytest.fixture(scope="session")
def trained_artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    layout = Layout(root / ".work", root)
    make_artifacts(layout, llms=())
    base, tuned, arms = (layout.artifact(stage) for stage in ("base_models", "tune_llm", "train_clip"))
    write_llm(base / "llm", TEXTS)
    write_llm(tuned / "llm", TEXTS, seed=1)
    encoding = {"attention": "bidirectional", "pooling": "mean", "template": "{text}", "max_tokens": 64}
    write_json(tuned / "encoding.json", {**encoding, "query_prompts": {}})
    clip = load_clip(base / "clip")
    torch.manual_seed(2)
    for name, text in (("llm2clip", "tuned"), ("llm2clip_untuned", "base")):
        save_vision_encoder(vision_encoder_of(clip, DIM), arms / name / "vision_encoder")
        save_adapter(
            TextAdapter(AdapterConfig(LLM_WIDTH, DIM, 2, 2, 0.0, False)), arms / name / "text_adapter"
        )
        write_json(arms / name / "model.json", _about(name, text, None))
    save_clip(clip, arms / "clip" / "clip")
    load_clip_tokenizer(base / "clip").save_pretrained(arms / "clip" / "clip")
    write_json(arms / "clip" / "model.json", _about("clip", "own", CONTEXT))
    for folder in (base, tuned, arms):
        write_manifest(folder)
    names = ("llm2clip", "llm2clip_untuned", "clip", "base_clip")
    metrics = {name: arm_metrics(0.5 - place / 10) for place, name in enumerate(names)}
    write_json(layout.metrics("evaluate"), {"arms": metrics})
    return root


@pytest.fixture
def trained(trained_artifacts: Path, workspace: Path, env: Environment) -> Layout:
    """A project in which everything up to evaluate has run."""
    for name in ("artifacts", "metrics"):
        shutil.copytree(trained_artifacts / name, workspace / name)
    return Layout(env.work_store)


def with_register(params: Params, **values: Any) -> Params:
    return params.model_copy(update={"register": params.register.model_copy(update=values)})


def _about(name: str, text: str, context_tokens: int | None) -> dict[str, Any]:
    scale = {"log_logit_scale": math.log(14.0), "logit_scale": 14.0}
    return {"name": name, "text": text, "context_tokens": context_tokens, "steps": 6, **scale}
