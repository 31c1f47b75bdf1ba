"""Load, save and run vision towers: CLIP, our convolutional stem, SigLIP and SigLIP 2, EVA02.

Pixels are normalised with each tower's own mean and deviation. All towers see the middle square of a picture;
SigLIP was published with pictures squeezed to a square instead.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModelWithProjection, SiglipVisionConfig, SiglipVisionModel

from components.ml.vision.conv_stem import ConvStemCLIPVisionModelWithProjection
from components.ml.vision.eva02 import Eva02VisionModelWithProjection
from components.ml.vision.normalisation import (
    normalisation_of,
    normalised,
    read_preprocessor,
    set_normalisation,
    write_preprocessor,
)
from components.ml.vision.siglip import ProjectedSiglipVisionConfig, SiglipVisionModelWithProjection

NAMED = 5
VISION_ENCODERS: dict[str, Any] = {
    "clip_vision_model": CLIPVisionModelWithProjection,
    "conv_stem_clip_vision_model": ConvStemCLIPVisionModelWithProjection,
    "eva02_clip_vision_model": Eva02VisionModelWithProjection,
    "siglip_vision_model": SiglipVisionModel,
    "projected_siglip_vision_model": SiglipVisionModelWithProjection,
}
HINTS = {
    "siglip2": " (NaFlex takes pictures of any shape and ours are squares: take a SigLIP 2 of a fixed "
    "resolution, whose type is siglip)"
}


def load_vision_encoder(folder: Path) -> nn.Module:
    """Load a vision tower in evaluation mode, float32, from safetensors.

    Raises:
        ValueError: the folder holds no vision tower, weights are missing, of another shape or not finite, or
            the preprocessing is not supported.
    """
    encoder: nn.Module = load_model(folder, VISION_ENCODERS)
    return encoder


def save_vision_encoder(module: nn.Module, folder: Path) -> None:
    """Save a vision tower in Hugging Face layout, with the config of its image processor."""
    model: Any = module
    model.save_pretrained(folder)
    write_preprocessor(folder, model.config)


def vision_encoder_of(model: Any, projection_dim: int | None) -> nn.Module:  # noqa: ANN401
    """Return a copy of a model's vision tower as a separate model.

    Args:
        model: A CLIP, a SigLIP, an EVA-CLIP, or a vision tower alone.
        projection_dim: Width of a new random projection, by torch's global generator; None keeps the old one.
    """
    config = copy.deepcopy(vision_config_of(model))
    if isinstance(config, SiglipVisionConfig):
        encoder = _siglip_encoder(model, config, projection_dim)
    else:
        config.projection_dim = projection_dim or embedding_width(model)
        encoder = VISION_ENCODERS[config.model_type](config)
        encoder.vision_model.load_state_dict(model.vision_model.state_dict())
        if projection_dim is None:
            encoder.visual_projection.load_state_dict(model.visual_projection.state_dict())
    tower: nn.Module = encoder.train(model.training).to(model.device)
    return tower


def encode_images(vision_encoder: nn.Module, images: Tensor) -> Tensor:
    """Embed uint8 (B, 3, H, W) with a vision tower: (B, D), rows of length 1."""
    output = vision_encoder(pixel_values=pixels_for(vision_encoder, images))
    rows = output.image_embeds if "image_embeds" in output else output.pooler_output
    return F.normalize(rows, dim=-1)


def pixels_for(model: Any, images: Tensor) -> Tensor:  # noqa: ANN401 - a model of transformers
    """Normalise uint8 (B, 3, H, W) as a model's vision tower expects it."""
    return normalised(images, normalisation_of(vision_config_of(model)))


def vision_config_of(model: Any) -> Any:  # noqa: ANN401 - a config of transformers
    """Return the config of a model's vision tower; the model may be only that tower."""
    return getattr(model.config, "vision_config", model.config)


def image_size_of(model: Any) -> int:  # noqa: ANN401 - a model of transformers
    """Return the side in pixels of the square that a model's vision tower takes."""
    return int(vision_config_of(model).image_size)


def embedding_width(model: Any) -> int:  # noqa: ANN401 - a model of transformers
    """Return D, the width of a model's image embeddings."""
    config = vision_config_of(model)
    if isinstance(config, SiglipVisionConfig):
        return int(getattr(config, "projection_dim", config.hidden_size))
    return int(model.config.projection_dim)


def load_model(folder: Path, kinds: dict[str, Any]) -> Any:  # noqa: ANN401 - one of `kinds`
    """Load a model of one of the types in `kinds`, in evaluation mode, float32, from safetensors.

    Raises:
        ValueError: it is of another type, weights are missing, of another shape or not finite, or its
            preprocessing is not supported.
    """
    model_type = model_type_of(folder)
    if model_type not in kinds:
        raise ValueError(
            f"{folder} has a model of type {model_type}{HINTS.get(str(model_type), '')}; "
            f"expected one of {', '.join(kinds)}"
        )
    try:
        model, report = kinds[model_type].from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from None
    problems = [str(key) for kind in ("missing_keys", "mismatched_keys") for key in sorted(report[kind])]
    problems += [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if problems:
        raise ValueError(
            f"{folder}: {len(problems)} weights are missing, of another shape or not finite "
            f"({', '.join(problems[:NAMED])}); expected all of a {model_type}"
        )
    config = vision_config_of(model)
    if not getattr(config, "vision_use_head", True):
        raise ValueError(f"{folder} is a SigLIP without its pooling head; expected one with it")
    set_normalisation(config, read_preprocessor(folder, normalisation_of(config)))
    return model.eval()


def model_type_of(folder: Path) -> str | None:
    """Return the model type in a model's config.json.

    Raises:
        ValueError: there is no config.json.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json; expected a model in Hugging Face layout")
    model_type: str | None = json.loads(path.read_text("utf-8")).get("model_type")
    return model_type


def _siglip_encoder(model: Any, config: Any, projection_dim: int | None) -> Any:  # noqa: ANN401
    """Return the SigLIP tower with a new projection, its old one, or none."""
    projection: Any = getattr(model, "visual_projection", None)
    tower = model if isinstance(model, SiglipVisionModel) else model.vision_model
    if projection_dim is None and projection is None:
        plain_tower = SiglipVisionModel(config)
        plain_tower.load_state_dict(tower.state_dict())
        return plain_tower
    tree = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    width = projection_dim or projection.out_features
    encoder = SiglipVisionModelWithProjection(
        ProjectedSiglipVisionConfig(**{**tree, "projection_dim": width})
    )
    encoder.vision_model.load_state_dict(tower.state_dict())
    if projection_dim is None:
        encoder.visual_projection.load_state_dict(projection.state_dict())
    return encoder
