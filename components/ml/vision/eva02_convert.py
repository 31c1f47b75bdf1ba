"""Convert public EVA02-CLIP checkpoints of EVA-CLIP's or timm's layout.

`ml.eva02_names` renames the weights, `ml.eva02_sizes` tells the size. The table of angles that EVA-CLIP keeps
has to agree with it. Only safetensors are read: the `.pt` files of EVA-CLIP are pickles.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.ml.vision.eva02 import (
    Eva02CLIPConfig,
    Eva02CLIPModel,
    Eva02VisionConfig,
    Eva02VisionModelWithProjection,
)
from components.ml.vision.eva02_names import NAMED, Converted, convert
from components.ml.vision.eva02_sizes import config_of
from components.ml.vision.normalisation import CLIP, Normalisation, set_normalisation, write_preprocessor
from components.ml.vision.rope_2d import rotations

CONFIGS = ("config.json", "open_clip_config.json")
WEIGHTS = "model.safetensors"
ANGLE_TOLERANCE = 2e-3  # of a cosine that was kept in half precision

log = logging.getLogger(__name__)


def convert_folder(folder: Path) -> bool:
    """Convert a checkpoint in its place, unless it is in Hugging Face layout already; return whether it was.

    Raises:
        ValueError: it is no EVA02 CLIP, its weights are incomplete, or its sizes cannot be told.
    """
    tree = _config_of(folder)
    if "model_type" in tree:
        return False
    files = sorted(folder.glob("*.safetensors"))
    try:
        tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder} cannot be read: {str(error).splitlines()[0]}") from None
    converted = convert(tensors)
    config = config_of(converted, tree)
    check_complete(converted, config)
    vision = getattr(config, "vision_config", config)
    _check_rotary(converted.rotary, vision)
    set_normalisation(vision, _normalisation(tree))
    for file in files:
        file.unlink()
    whole = {name: tensor.float().contiguous() for name, tensor in converted.tensors.items()}
    save_file(whole, folder / WEIGHTS, {"format": "pt"})
    config.save_pretrained(folder)
    write_preprocessor(folder, vision)
    for reason in sorted(set(converted.left_out.values())):
        count = list(converted.left_out.values()).count(reason)
        log.info("%d tensors of the EVA02 checkpoint are left out: %s", count, reason)
    return True


def check_complete(converted: Converted, config: Eva02CLIPConfig | Eva02VisionConfig) -> None:
    """Check that names and shapes are all of a model's, and no others.

    Raises:
        ValueError: they are not; the first five are told.
    """
    kind: Any = Eva02CLIPModel if isinstance(config, Eva02CLIPConfig) else Eva02VisionModelWithProjection
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in kind(config).state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in converted.tensors.items()}
    odd = [
        f"{name} {found.get(name, 'missing')}"
        for name in sorted(expected | found)
        if found.get(name) != expected.get(name)
    ]
    if odd:
        raise ValueError(
            f"{len(odd)} weights of an EVA02 CLIP are missing or of another shape "
            f"({', '.join(odd[:NAMED])}); expected a whole checkpoint: download it again"
        )


def _check_rotary(kept: Tensor | None, config: Any) -> None:  # noqa: ANN401
    """Compare the angles that a checkpoint keeps with those of its config."""
    if kept is None:
        return
    ours, _ = rotations(config)
    if kept.shape != ours.shape or not torch.allclose(kept.float(), ours, atol=ANGLE_TOLERANCE, rtol=0):
        raise ValueError(
            f"the checkpoint's rotary angles {tuple(kept.shape)} are not those of "
            f"{config.num_attention_heads} heads on a grid of {config.rotary_grid}, {tuple(ours.shape)}; "
            "expected the same: give it the config.json that belongs to it"
        )


def _normalisation(tree: dict[str, Any]) -> Normalisation:
    said = tree.get("preprocess_cfg") or tree.get("pretrained_cfg") or {}
    return Normalisation(tuple(said.get("mean", CLIP.mean)), tuple(said.get("std", CLIP.deviation)))


def _config_of(folder: Path) -> dict[str, Any]:
    """Return what lies beside a checkpoint: its config.json, with open_clip_config.json under it."""
    tree: dict[str, Any] = {}
    for name in reversed(CONFIGS):
        path = folder / name
        if not path.is_file():
            continue
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"{path} holds no object; expected the config of a model")
        tree |= found
    return tree
