"""Models of the two kinds of arm: CLIP's vision tower with cached LLM embeddings, or with its text tower."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.errors import ConfigurationError
from components.ml.adapter import AdapterConfig, TextAdapter, save_adapter
from components.ml.vision.clip import (
    image_embeddings,
    load_base,
    load_clip,
    load_clip_tokenizer,
    save_clip,
    save_clip_tokenizer,
    text_features,
    text_tokens,
    with_context,
)
from components.ml.vision.towers import (
    embedding_width,
    encode_images,
    save_vision_encoder,
    vision_config_of,
    vision_encoder_of,
)
from components.settings.train_clip import Arm as ArmSettings
from components.settings.train_clip import LogitScale, TrainClip
from components.train_clip.texts import CachedTexts, PlainTexts

TEXT_CHUNK = 64  # captions of similar length go through the text tower together: less padding


class LlmArm(nn.Module):
    """A vision tower, trained whole, and a text adapter; the LLM is frozen and its embeddings are cached.

    Args:
        clip: Folder of the base CLIP.
        settings: Params of train_clip.
        scale: Params of the logit scale.
        texts: Cached embeddings of the training captions; their width and statistics are read.
    """

    def __init__(self, clip: Path, settings: TrainClip, scale: LogitScale, texts: CachedTexts) -> None:
        super().__init__()
        model = load_base(clip)
        width = embedding_width(model)
        if not settings.new_projection and settings.projection_dim != width:
            raise ValueError(
                f"the base CLIP's embeddings have {width} dimensions and params ask for "
                f"{settings.projection_dim}: set train_clip.projection_dim to that or new_projection to true"
            )
        self.vision_encoder = vision_encoder_of(
            model, settings.projection_dim if settings.new_projection else None
        )
        config = AdapterConfig(
            texts.vectors.shape[1], settings.projection_dim, **settings.adapter.model_dump()
        )
        self.text_adapter = TextAdapter(config)
        if config.standardise:
            self.text_adapter.fit_statistics(texts.vectors.in_parts(texts.rows.unique()))
        self.log_logit_scale = nn.Parameter(_initial_log_scale(scale, model).reshape(()))

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed uint8 images (B, 3, H, W): (B, D), rows of length 1."""
        return encode_images(self.vision_encoder, images)

    def embed_texts(self, texts: Tensor) -> Tensor:
        """Embed captions, given as the LLM's cached embeddings (n, d): (n, D), rows of length 1."""
        embeddings: Tensor = self.text_adapter(texts.to(self.log_logit_scale.device))
        return embeddings

    def vision_parameters(self) -> dict[str, nn.Parameter]:
        """Return the vision tower's parameters by name."""
        return dict(self.vision_encoder.named_parameters())

    def vision_layers(self) -> int:
        """Return the number of transformer blocks of the vision tower."""
        return int(vision_config_of(self.vision_encoder).num_hidden_layers)

    def save(self, folder: Path) -> None:
        """Write `vision_encoder/` and `text_adapter/`."""
        save_vision_encoder(self.vision_encoder, folder / "vision_encoder")
        save_adapter(self.text_adapter, folder / "text_adapter")


class OwnTextArm(nn.Module):
    """The base CLIP with both towers trained further: a control that sees the same images and captions.

    Args:
        clip: Folder of the base CLIP.
        scale: Params of the logit scale.
        context_tokens: Length of the text tower's context; None leaves it.
    """

    def __init__(self, clip: Path, scale: LogitScale, context_tokens: int | None) -> None:
        super().__init__()
        model, self._tokenizer = load_clip(clip), load_clip_tokenizer(clip)
        self.clip = with_context(model, context_tokens) if context_tokens else model
        self.clip.logit_scale = nn.Parameter(_initial_log_scale(scale, model))
        self.context_tokens = int(self.clip.config.text_config.max_position_embeddings)
        self._tokenizer.model_max_length = self.context_tokens

    @property
    def log_logit_scale(self) -> nn.Parameter:
        """Logarithm of CLIP's logit scale."""
        scale: nn.Parameter = self.clip.logit_scale
        return scale

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed uint8 images (B, 3, H, W): (B, D), rows of length 1."""
        return image_embeddings(self.clip, images)

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Embed captions: (n, D), rows of length 1. Captions of similar length are padded together."""
        device = self.log_logit_scale.device
        try:
            ids, mask = text_tokens(self.clip, self._tokenizer, texts)  # (B, T) each
        except ValueError as error:
            raise ConfigurationError(f"base_models.clip: {error}") from None
        lengths, order = mask.sum(dim=1).sort()
        parts = []
        for part, length in zip(order.split(TEXT_CHUNK), lengths.split(TEXT_CHUNK), strict=True):
            inputs = (tokens[part, : int(length.max())].to(device) for tokens in (ids, mask))
            parts.append(text_features(self.clip, *inputs))
        return F.normalize(torch.cat(parts)[order.argsort().to(device)], dim=-1)

    def vision_parameters(self) -> dict[str, nn.Parameter]:
        """Return the vision tower's parameters by name."""
        return {
            name: parameter
            for name, parameter in self.clip.named_parameters()
            if name.startswith(("vision_model.", "visual_projection."))
        }

    def vision_layers(self) -> int:
        """Return the number of transformer blocks of the vision tower."""
        return int(vision_config_of(self.clip).num_hidden_layers)

    def save(self, folder: Path) -> None:
        """Write `clip/` with its tokenizer."""
        save_clip(self.clip, folder / "clip")
        save_clip_tokenizer(self._tokenizer, folder / "clip")


Arm = LlmArm | OwnTextArm


def build_arm(clip: Path, settings: ArmSettings, training: TrainClip, text: CachedTexts | PlainTexts) -> Arm:
    """Return an untrained arm; its new parts are drawn by torch's global generator.

    Raises:
        ValueError: the base CLIP cannot be loaded, or params do not fit it.
    """
    if isinstance(text, CachedTexts):
        return LlmArm(clip, training, settings.logit_scale, text)
    return OwnTextArm(clip, settings.logit_scale, settings.context_tokens)


def about_arm(arm: Arm, settings: ArmSettings, precision: str) -> dict[str, Any]:
    """Return the content of an arm's `model.json`, without its training.

    Args:
        arm: The arm.
        settings: Its params.
        precision: In which it was trained.
    """
    log_scale = float(arm.log_logit_scale.detach())
    vision = sum(parameter.numel() for parameter in arm.vision_parameters().values())
    total = sum(parameter.numel() for parameter in arm.parameters())
    return {
        "name": settings.name,
        "text": settings.text,
        "context_tokens": arm.context_tokens if isinstance(arm, OwnTextArm) else None,
        # what `auto` resolved to: machines with another precision train other weights
        "precision": precision,
        "log_logit_scale": log_scale,
        "logit_scale": math.exp(log_scale),
        "parameters": {"vision": vision, "text": total - vision - 1},
    }


def _initial_log_scale(settings: LogitScale, model: Any) -> Tensor:  # noqa: ANN401 - a CLIP or a vision tower
    """Return the logarithm of the initial logit scale, in the shape that the model saves."""
    base_scale: Tensor | None = getattr(model, "logit_scale", None)
    if settings.initial is not None:
        shape = () if base_scale is None else base_scale.shape
        return torch.full(shape, math.log(settings.initial))
    if base_scale is None:
        raise ValueError(
            "the base is a vision tower without a logit scale and params leave the first one to it: set "
            "logit_scale.initial of the arm"
        )
    return base_scale.detach().clone()
