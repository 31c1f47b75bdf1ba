"""EVA02 vision tower of EVA-CLIP, with its own model types, in Hugging Face layout.

A ViT with learned and rotary positions (Su et al. 2021, in two dimensions), a SwiGLU (Shazeer 2020) as its
feed-forward part, and an extra LayerNorm inside attention and feed-forward part ("sub-LN"): Fang et al. 2023,
arXiv 2303.11331, section 2.1; Sun et al. 2023, arXiv 2303.15389. transformers has no such model. With the
text tower of EVA-CLIP it is an `Eva02CLIPModel`, alone an `Eva02VisionModelWithProjection`.
"""

from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, CLIPConfig, CLIPModel, CLIPVisionConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import (
    CLIPPreTrainedModel,
    CLIPVisionEmbeddings,
    CLIPVisionModelWithProjection,
)

ROTARY_BASE = 10000.0  # Su et al. 2021, section 3.2.2


@strict
class Eva02VisionConfig(CLIPVisionConfig):
    """CLIP's vision config with the side of the grid that rotary positions were pretrained on."""

    model_type = "eva02_clip_vision_model"

    layer_norm_eps: float = 1e-6
    rotary_grid: int = 16  # cells; a finer grid spans the same positions


@strict
class Eva02CLIPConfig(CLIPConfig):
    """CLIP's config with an `Eva02VisionConfig`."""

    model_type = "eva02_clip"
    sub_configs_defaults = {  # noqa: RUF012 - how transformers declares it
        **CLIPConfig.sub_configs_defaults,
        "vision_config": Eva02VisionConfig,
    }

    vision_config: dict | Eva02VisionConfig | None = None  # type: ignore[type-arg]


class Eva02Attention(nn.Module):
    """Attention with rotary positions and a LayerNorm before the output; keys have no bias."""

    def __init__(self, config: Eva02VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.inner_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.out_proj = nn.Linear(width, width)

    def forward(self, states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Map (B, T, width) to the same."""
        query, key, value = (
            projection(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, head width)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(
            rotate(query, cosines, sines),
            rotate(key, cosines, sines),
            value,
            dropout_p=self.dropout if self.training else 0.0,
        )
        out: Tensor = self.out_proj(self.inner_norm(mixed.transpose(1, 2).flatten(2)))
        return out


class Eva02FeedForward(nn.Module):
    """SwiGLU with a LayerNorm before the output."""

    def __init__(self, config: Eva02VisionConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.gate_proj, self.up_proj = nn.Linear(width, inner), nn.Linear(width, inner)
        self.inner_norm = nn.LayerNorm(inner, eps=config.layer_norm_eps)
        self.down_proj = nn.Linear(inner, width)

    def forward(self, states: Tensor) -> Tensor:
        """Map (B, T, width) to the same."""
        out: Tensor = self.down_proj(self.inner_norm(F.silu(self.gate_proj(states)) * self.up_proj(states)))
        return out


class Eva02Layer(GradientCheckpointingLayer):
    """One block of the transformer."""

    def __init__(self, config: Eva02VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = Eva02Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = Eva02FeedForward(config)

    def forward(self, states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Map (B, T, width) to the same."""
        states = states + self.self_attn(self.layer_norm1(states), cosines, sines)
        out: Tensor = states + self.mlp(self.layer_norm2(states))
        return out


class Eva02Encoder(nn.Module):
    """The blocks, with CLIP's names."""

    def __init__(self, config: Eva02VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Eva02Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Map (B, T, width) to the same."""
        for layer in self.layers:
            states = layer(states, cosines, sines)
        return states


class Eva02VisionEmbeddings(CLIPVisionEmbeddings):
    """CLIP's class token, patches and learned positions; the patches have a bias."""

    def __init__(self, config: Eva02VisionConfig) -> None:
        super().__init__(config)
        self.patch_embedding = nn.Conv2d(
            config.num_channels, self.embed_dim, kernel_size=self.patch_size, stride=self.patch_size
        )


class Eva02VisionModel(CLIPPreTrainedModel):
    """The tower without its projection."""

    config: Eva02VisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _input_embed_layer = "patch_embedding"
    _no_split_modules = ["Eva02VisionEmbeddings", "Eva02Layer"]  # noqa: RUF012
    _can_record_outputs: ClassVar[dict[str, Any]] = {}

    def __init__(self, config: Eva02VisionConfig) -> None:
        super().__init__(config)
        self.embeddings = Eva02VisionEmbeddings(config)
        self.encoder = Eva02Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def forward(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, **_: object
    ) -> BaseModelOutputWithPooling:
        """Embed normalised pixels (B, 3, H, W): states (B, 1 + patches, width), and the pooled class token.

        Raises:
            ValueError: the images are of another size than the model's.
        """
        if interpolate_pos_encoding:
            size = self.config.image_size
            raise ValueError(
                f"interpolate_pos_encoding is True; expected images of {size} x {size} pixels: resize them"
            )
        states = self.embeddings(pixel_values)
        states = self.encoder(states, *rotations(self.config, states.device))
        pooled = self.post_layernorm(states[:, 0])
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)


class Eva02VisionModelWithProjection(CLIPVisionModelWithProjection):
    """The vision tower alone, with the projection to the shared space, which has a bias."""

    config: Eva02VisionConfig
    _no_split_modules = Eva02VisionModel._no_split_modules

    def __init__(self, config: Eva02VisionConfig) -> None:
        super().__init__(config)
        self.vision_model = Eva02VisionModel._from_config(config)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim)
        self.post_init()


class Eva02CLIPModel(CLIPModel):
    """EVA-CLIP: the EVA02 vision tower and CLIP's text tower."""

    config: Eva02CLIPConfig
    _no_split_modules = [*Eva02VisionModel._no_split_modules, "CLIPTextEmbeddings", "CLIPEncoderLayer"]  # noqa: RUF012

    def __init__(self, config: Eva02CLIPConfig) -> None:
        super().__init__(config)
        self.vision_model = Eva02VisionModel._from_config(config.vision_config)
        self.visual_projection = nn.Linear(self.vision_embed_dim, self.projection_dim)
        self.post_init()


def _register(config: Any, model: Any) -> None:  # noqa: ANN401 - classes of transformers
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(config, model, exist_ok=True)


_register(Eva02CLIPConfig, Eva02CLIPModel)
_register(Eva02VisionConfig, Eva02VisionModelWithProjection)


def rotations(config: Any, device: torch.device | None = None) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return cosines and sines (patches, head width) of the rotary positions, float32, row by row.

    The first half of a head rotates by a patch's row, the second by its column; neighbours (2i, 2i + 1)
    rotate together. Positions are scaled so that any grid spans the `rotary_grid` cells of pretraining.
    """
    side = config.image_size // config.patch_size
    width = config.hidden_size // config.num_attention_heads // 2  # for each of the two directions
    exponents = torch.arange(0, width, 2, device=device).float() / width
    cells = torch.arange(side, device=device).float() / side * config.rotary_grid
    angles = (cells[:, None] / ROTARY_BASE**exponents).repeat_interleave(2, dim=1)  # (side, width)
    rows = angles[:, None].expand(side, side, width)
    columns = angles[None].expand(side, side, width)
    all_angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)  # (patches, head width)
    return all_angles.cos(), all_angles.sin()


def rotate(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate queries or keys (B, heads, 1 + patches, head width) of patches, not of the class token."""
    patches = states[:, :, 1:]
    swapped = torch.stack([-patches[..., 1::2], patches[..., ::2]], dim=-1).flatten(-2)
    rotated = (patches * cosines + swapped * sines).to(states.dtype)
    return torch.cat([states[:, :, :1], rotated], dim=2)
