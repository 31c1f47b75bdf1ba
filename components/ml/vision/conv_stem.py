"""CLIP with a convolutional stem instead of a patch embedding, in Hugging Face layout.

A few 3x3 convolutions instead of one large one let a small vision transformer learn in minutes (Xiao et al.,
"Early Convolutions Help Transformers See Better", 2021, section 4). It has its own model type, so that plain
transformers refuses it instead of loading it with a random patch embedding.
"""

from dataclasses import field
from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, CLIPConfig, CLIPModel, CLIPVisionConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import (
    CLIPVisionEmbeddings,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)


@strict
class ConvStemCLIPVisionConfig(CLIPVisionConfig):
    """CLIP's vision config with the channels of the stem's convolutions, and the pooling.

    `pooling` is `class` (the class token, as in CLIP) or `mean` (the mean over the stem's cells).
    """

    model_type = "conv_stem_clip_vision_model"

    stem_channels: list[int] = field(default_factory=list)
    pooling: Literal["class", "mean"] = "class"


@strict
class ConvStemCLIPConfig(CLIPConfig):
    """CLIP's config with a `ConvStemCLIPVisionConfig`."""

    model_type = "conv_stem_clip"
    sub_configs_defaults = {  # noqa: RUF012 - how transformers declares it
        **CLIPConfig.sub_configs_defaults,
        "vision_config": ConvStemCLIPVisionConfig,
    }

    vision_config: dict | ConvStemCLIPVisionConfig | None = None  # type: ignore[type-arg]


def conv_stem(channels: list[int], width: int, in_channels: int = 3) -> nn.Sequential:
    """Return 3x3 stride-2 convolutions with BatchNorm and GELU, and a final 1x1 one if `width` differs.

    Maps (B, in_channels, H, W) to (B, width, ceil(H / 2^n), ceil(W / 2^n)), n = len(channels).
    """
    layers: list[nn.Module] = []
    for channels_in, channels_out in zip([in_channels, *channels], channels, strict=False):
        layers += [
            nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.GELU(),
        ]
    if channels[-1] != width:
        layers.append(nn.Conv2d(channels[-1], width, kernel_size=1))
    return nn.Sequential(*layers)


def grid_side(image_size: int, channels: list[int]) -> int:
    """Return the side of the stem's output: 64 px and four convolutions give 4, 72 px give 5."""
    return -(-image_size // 2 ** len(channels))


class ConvStemVisionEmbeddings(CLIPVisionEmbeddings):
    """A class token, then the stem's grid, with learned positions."""

    def __init__(self, config: ConvStemCLIPVisionConfig) -> None:
        super().__init__(config)
        self.patch_embedding = conv_stem(config.stem_channels, self.embed_dim, config.num_channels)
        self.num_patches = grid_side(config.image_size, config.stem_channels) ** 2
        self.num_positions = self.num_patches + 1
        self.position_embedding = nn.Embedding(self.num_positions, self.embed_dim)
        self.position_ids = nn.Buffer(torch.arange(self.num_positions).expand((1, -1)), persistent=False)

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Return (B, 1 + patches, width) of normalised pixels (B, 3, H, W)."""
        side = self.image_size
        if interpolate_pos_encoding or tuple(pixel_values.shape[-2:]) != (side, side):
            raise ValueError(
                f"images of {tuple(pixel_values.shape[-2:])} pixels; this model takes {side} x {side} only: "
                "resize them"
            )
        pixels = pixel_values.to(self.position_embedding.weight.dtype)
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # (B, patches, width)
        classes = self.class_embedding.expand(len(patches), 1, -1)
        return torch.cat([classes, patches], dim=1) + self.position_embedding(self.position_ids)


class ConvStemCLIPVisionModel(CLIPVisionModel):
    """CLIP's vision transformer over the stem's grid."""

    config: ConvStemCLIPVisionConfig
    _no_split_modules = [*CLIPVisionModel._no_split_modules, "ConvStemVisionEmbeddings"]  # noqa: RUF012

    def __init__(self, config: ConvStemCLIPVisionConfig) -> None:
        super().__init__(config)
        self.embeddings = ConvStemVisionEmbeddings(config)
        self.post_init()

    def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:  # noqa: ANN401 - as CLIP's
        """Return CLIP's output, with `pooler_output` (B, width) pooled as the config says."""
        output: BaseModelOutputWithPooling = super().forward(*args, **kwargs)
        if self.config.pooling == "mean":
            cells = output.last_hidden_state[:, 1:]  # (B, cells, width), without the class token
            output.pooler_output = self.post_layernorm(cells.mean(dim=1))
        return output


class ConvStemCLIPVisionModelWithProjection(CLIPVisionModelWithProjection):
    """The vision tower alone, with the projection to the shared space."""

    config: ConvStemCLIPVisionConfig

    def __init__(self, config: ConvStemCLIPVisionConfig) -> None:
        super().__init__(config)
        self.vision_model = ConvStemCLIPVisionModel._from_config(config)
        self.post_init()


class ConvStemCLIPModel(CLIPModel):
    """A `CLIPModel` whose vision tower has a convolutional stem."""

    config: ConvStemCLIPConfig

    def __init__(self, config: ConvStemCLIPConfig) -> None:
        super().__init__(config)
        self.vision_model = ConvStemCLIPVisionModel._from_config(config.vision_config)
        self.post_init()


def _register(config: Any, model: Any) -> None:  # noqa: ANN401 - classes of transformers
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(config, model, exist_ok=True)


_register(ConvStemCLIPConfig, ConvStemCLIPModel)
_register(ConvStemCLIPVisionConfig, ConvStemCLIPVisionModelWithProjection)
