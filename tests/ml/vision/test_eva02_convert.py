from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from components.ml.vision.clip import has_text_tower, image_embeddings, load_base, load_clip
from components.ml.vision.eva02 import Eva02CLIPConfig, Eva02VisionConfig
from components.ml.vision.eva02_convert import check_complete, config_of, convert, convert_folder
from components.ml.vision.towers import encode_images, load_vision_encoder
from tests.ml.slow_eva02 import EVA_CONFIG, TIMM_CONFIG, eva_checkpoint, write
from tests.ml.towers import PUBLISHED, TINY, as_timm, eva_clip_shapes, pictures, text_shapes


@pytest.mark.parametrize("layout", ["open_clip", "timm", "eva_alone", "root_text"])
def test_all_layouts_convert_to_equal_outputs(tmp_path: Path, layout: str) -> None:
    whole = eva_checkpoint(TINY)
    convert_folder(write(tmp_path / "eva", whole, EVA_CONFIG))
    images = pictures(TINY.image)
    expected = image_embeddings(load_clip(tmp_path / "eva"), images)
    tower = {name: tensor for name, tensor in whole.items() if name.startswith("visual.")}
    folder = tmp_path / layout
    if layout == "open_clip":
        inside = {"model_cfg": {**EVA_CONFIG, "vision_cfg": {}}, "model_args": TIMM_CONFIG["model_args"]}
        write(folder, as_timm(whole, "visual.trunk."), inside, "open_clip_config.json")
    elif layout == "timm":
        write(folder, as_timm(tower, ""), TIMM_CONFIG)
    elif layout == "eva_alone":
        write(folder, {name.removeprefix("visual."): tensor for name, tensor in tower.items()}, EVA_CONFIG)
    else:
        write(folder, {name.removeprefix("text."): tensor for name, tensor in whole.items()}, EVA_CONFIG)
    assert convert_folder(folder)
    assert has_text_tower(folder) == (layout in {"open_clip", "root_text"})
    assert torch.equal(image_embeddings(load_base(folder), images), expected)
    assert not convert_folder(folder)


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in eva_checkpoint(TINY).items()}
    convert_folder(write(tmp_path, tensors, EVA_CONFIG))
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def on_meta(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes}


@pytest.mark.parametrize("layout", ["eva", "timm"])
@pytest.mark.parametrize("name", list(PUBLISHED))
def test_every_key_of_the_published_sizes_is_accounted_for(name: str, layout: str) -> None:
    size = PUBLISHED[name]
    tensors = on_meta([*eva_clip_shapes(size), *text_shapes(size)])
    if layout == "timm":
        tensors = as_timm(tensors, "visual.trunk.")
    converted = convert(tensors)
    config = config_of(converted, {})
    assert isinstance(config, Eva02CLIPConfig)
    vision: Any = config.vision_config
    check_complete(converted, config)
    numbers = sum(math.prod(tensor.shape) for tensor in tensors.values())
    kept = sum(math.prod(tensor.shape) for tensor in converted.tensors.values())
    ropes = [key for key in converted.left_out if "rope" in key]
    assert kept == numbers - sum(math.prod(tensors[key].shape) for key in ropes)
    assert len(converted.left_out) == (2 * (size.layers + 1) if layout == "eva" else 0)
    assert (vision.num_attention_heads, vision.num_hidden_layers, vision.rotary_grid) == (
        size.heads,
        size.layers,
        16,
    )
    assert (vision.image_size, vision.patch_size, vision.projection_dim) == (
        size.image,
        size.patch,
        size.projection,
    )
    assert config.text_config.num_attention_heads == size.text_width // 64


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_a_tower_alone_of_a_published_size(name: str) -> None:
    converted = convert(as_timm(on_meta(eva_clip_shapes(PUBLISHED[name])), ""))
    config = config_of(converted, {})
    assert isinstance(config, Eva02VisionConfig)
    check_complete(converted, config)


def damaged(tensors: dict[str, Tensor], damage: str) -> dict[str, Tensor]:
    changed = dict(tensors)
    if damage == "missing":
        del changed["visual.blocks.1.attn.k_proj.weight"]
    elif damage == "shape":
        changed["visual.blocks.1.mlp.w3.bias"] = torch.zeros(3)
    elif damage == "odd":
        changed |= {f"visual.blocks.0.attn.extra_{number}": torch.zeros(1) for number in range(7)}
    elif damage == "head":
        del changed["visual.head.weight"]
    elif damage == "block":
        changed = {name: tensor for name, tensor in changed.items() if ".blocks.0." not in name}
    elif damage == "positions":
        changed["visual.pos_embed"] = torch.zeros(1, 16, TINY.width)
    elif damage == "rope":
        changed["visual.rope.freqs_cos"] = changed["visual.rope.freqs_cos"] + 0.01
    return changed


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r"1 weights .*encoder\.layers\.1\.self_attn\.k_proj\.weight missing"),
        ("shape", r"1 weights .*layers\.1\.mlp\.down_proj\.bias \(3,\)"),
        ("odd", r"^7 weights have names .*extra_0, .*extra_4\)"),
        ("head", r"without visual_projection\.weight"),
        ("block", r"no weights of an EVA02 vision tower \(first names: logit_scale"),
        ("positions", "16 positions; expected a square number and one"),
        ("rope", r"rotary angles \(16, 8\) are not those of 2 heads on a grid of 3"),
    ],
)
def test_damaged_checkpoints_are_refused_and_left(tmp_path: Path, damage: str, message: str) -> None:
    folder = write(tmp_path, damaged(eva_checkpoint(TINY), damage), EVA_CONFIG)
    with pytest.raises(ValueError, match=message):
        convert_folder(folder)
    assert {path.name for path in folder.iterdir()} == {"weights.safetensors", "config.json"}


def test_a_size_that_nobody_published_needs_its_config(tmp_path: Path) -> None:
    folder = write(tmp_path, eva_checkpoint(TINY), {})
    with pytest.raises(ValueError, match=r"width 16, 2 layers and patches of 8 pixels .*head_width"):
        convert_folder(folder)


def test_a_wrong_config_does_not_fit_the_angles(tmp_path: Path) -> None:
    vision = {**EVA_CONFIG["vision_cfg"], "pt_hw_seq_len": 16}
    folder = write(tmp_path, eva_checkpoint(TINY), {**EVA_CONFIG, "vision_cfg": vision})
    with pytest.raises(ValueError, match="on a grid of 16"):
        convert_folder(folder)


def test_a_checkpoints_own_mean_is_kept(tmp_path: Path) -> None:
    means = {"preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    tensors = eva_checkpoint(TINY, with_text=False)
    convert_folder(write(tmp_path / "a", tensors, EVA_CONFIG))
    convert_folder(write(tmp_path / "b", tensors, {**EVA_CONFIG, **means}))
    images = pictures(TINY.image)
    first, second = (load_vision_encoder(tmp_path / name) for name in "ab")
    assert not torch.allclose(encode_images(first, images), encode_images(second, images), atol=1e-3)
    assert json.loads((tmp_path / "b" / "preprocessor_config.json").read_text())["image_mean"] == [
        0.5,
        0.5,
        0.5,
    ]
