from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.settings.params import Params
from components.storage.layout import Layout
from components.storage.mapped_rows import MappedRows
from components.train_clip.arms import LlmArm
from components.train_clip.texts import CachedTexts
from components.train_clip.training import build_optimizer, layer_of
from tests.clip_project import make_artifacts, small


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("vision_model.embeddings.patch_embedding.0.weight", 0),
        ("vision_model.embeddings.class_embedding", 0),
        ("vision_model.pre_layrnorm.weight", 0),
        ("vision_model.encoder.layers.0.mlp.fc1.weight", 1),
        ("vision_model.encoder.layers.11.mlp.fc1.weight", 12),
        ("vision_model.post_layernorm.weight", 13),
        ("visual_projection.weight", 13),
    ],
)
def test_depth_of_a_parameter(name: str, layer: int) -> None:
    assert layer_of(name, 12) == layer


def test_rates_and_decay(workspace: Path, smoke: Params) -> None:
    layout = Layout(Path(".work"))
    make_artifacts(layout, llms=())
    settings = small(smoke).train_clip.model_copy(update={"layer_decay": 0.5, "betas": [0.9, 0.98]})
    texts = CachedTexts(MappedRows([torch.randn(4, 24).numpy()]), torch.arange(4), "")
    arm = LlmArm(layout.artifact("base_models") / "clip", settings, settings.arms[0].logit_scale, texts)
    groups = build_optimizer(arm, settings.arms[0], settings).param_groups
    found = {
        id(parameter): (group["peak"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    assert len(found) == len(list(arm.parameters()))
    assert {group["betas"] for group in groups} == {(0.9, 0.98)}
    by_name = {name: found[id(parameter)] for name, parameter in arm.named_parameters()}
    assert by_name["log_logit_scale"] == (0.001, 0.0)
    assert by_name["text_adapter.projection.weight"] == (0.001, 0.05)
    assert by_name["text_adapter.projection.bias"] == (0.001, 0.0)
    assert by_name["vision_encoder.visual_projection.weight"] == (0.0005, 0.05)
    vision = "vision_encoder.vision_model."
    assert by_name[f"{vision}encoder.layers.0.mlp.fc1.weight"] == (0.00025, 0.05)
    assert by_name[f"{vision}embeddings.position_embedding.weight"] == (0.000125, 0.0)
    assert by_name[f"{vision}embeddings.patch_embedding.0.weight"] == (0.000125, 0.05)
