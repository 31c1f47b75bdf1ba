from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.ml.vision.clip import load_clip, text_features
from components.ml.vision.eva02 import Eva02VisionConfig, Eva02VisionModelWithProjection
from components.ml.vision.eva02_convert import convert_folder
from components.ml.vision.towers import encode_images, load_vision_encoder, save_vision_encoder
from tests.ml.slow_eva02 import EVA_CONFIG, eva_checkpoint, rope_tables, slow_embedding, slow_text, write
from tests.ml.towers import TINY, pictures, shaken


def test_a_checkpoint_of_eva_clip_is_the_slow_implementation(tmp_path: Path) -> None:
    tensors = eva_checkpoint(TINY)
    assert convert_folder(write(tmp_path / "eva", tensors, EVA_CONFIG))
    model = load_clip(tmp_path / "eva")
    pixels = torch.randn(2, 3, TINY.image, TINY.image, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        found = model.get_image_features(pixel_values=pixels).pooler_output
    expected = torch.stack([slow_embedding(tensors, picture, TINY) for picture in pixels])
    assert found.shape == (2, TINY.projection)
    assert torch.allclose(found, expected, atol=1e-4)
    ids = torch.tensor([[48, 3, 7, 11, 49, 0, 0], [48, 20, 21, 22, 23, 24, 49]])
    found = text_features(model, ids, torch.ones_like(ids))
    expected = torch.stack([slow_text(tensors, row.tolist(), TINY, heads=3) for row in ids])
    assert torch.allclose(found, expected, atol=1e-4)
    assert model.logit_scale == tensors["logit_scale"]


def test_rows_and_columns_turn_different_halves() -> None:
    tables = rope_tables(TINY)
    by_cell = tables["freqs_cos"].view(4, 4, -1)
    assert not torch.equal(by_cell, by_cell.transpose(0, 1))
    assert torch.equal(by_cell[..., :4], by_cell.transpose(0, 1)[..., 4:])


def tiny_tower() -> Any:
    torch.manual_seed(0)
    model = Eva02VisionModelWithProjection(
        Eva02VisionConfig(
            hidden_size=16,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            projection_dim=8,
        )
    )
    shaken(model)
    return model


def gradients(model: Any) -> dict[str, Tensor]:
    model.train().zero_grad()
    encode_images(model, pictures(32)).pow(3).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model = tiny_tower()
    plain = gradients(model)
    calls = []
    model.vision_model.encoder.layers[1].self_attn.register_forward_hook(lambda *_: calls.append(1))
    model.gradient_checkpointing_enable()
    again = gradients(model)
    assert len(calls) == 2  # the second time for the backward pass
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert all(gradient.abs().sum() > 0 for gradient in plain.values())


def test_adapters_of_low_rank_fit() -> None:
    peft = pytest.importorskip("peft")
    model = tiny_tower()
    before = encode_images(model, pictures(32))
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    assert torch.allclose(encode_images(adapted, pictures(32)), before, atol=1e-6)
    assert sum("lora_A" in name for name, _ in adapted.named_parameters()) == 4


def test_saved_and_loaded_it_embeds_the_same(tmp_path: Path) -> None:
    model = tiny_tower().eval()
    save_vision_encoder(model, tmp_path)
    loaded = load_vision_encoder(tmp_path)
    assert torch.equal(encode_images(loaded, pictures(32)), encode_images(model, pictures(32)))


def test_images_of_another_size_are_refused() -> None:
    model = tiny_tower()
    with pytest.raises(ValueError, match="64"):
        encode_images(model, pictures(64))
    with pytest.raises(ValueError, match="32 x 32 pixels"):
        model(pixel_values=torch.zeros(1, 3, 64, 64), interpolate_pos_encoding=True)
