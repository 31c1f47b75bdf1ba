"""Tiny random models, one for each family of vision towers, and the public layouts of EVA02 checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from components.ml.text.bpe import train_bpe
from components.ml.vision.eva02 import Eva02CLIPConfig, Eva02CLIPModel

TEXTS = ["a red circle", "two blue squares on white", "one"]
CONTEXT = 16
SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
# patch and image size: the patches of the published models, few of them
SIZES = {
    "clip_b16": (16, 32),
    "clip_l14": (14, 28),
    "clip_l14_336": (14, 42),
    "siglip": (16, 32),
    "siglip2": (14, 28),
    "eva02_b16": (16, 32),
    "eva02_l14": (14, 28),
    "eva02_l14_336": (14, 42),
}


def tiny_tokenizer() -> Any:
    """Return a vocabulary of `TEXTS`, with an end token, padded on the right."""
    return train_bpe(TEXTS, 64, CONTEXT, padding_side="right", ends_with_eos=True)


def tiny_model(family: str, tokenizer: Any) -> Any:
    """Return a model of two towers in evaluation mode; no weight is left at a value that hides it."""
    patch, size = SIZES[family]
    vision = {**SHAPE, "image_size": size, "patch_size": patch}
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    text = {**SHAPE, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT}
    torch.manual_seed(0)
    if family.startswith("siglip"):
        model: Any = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    else:
        kind, config = (Eva02CLIPModel, Eva02CLIPConfig) if "eva02" in family else (CLIPModel, CLIPConfig)
        if "eva02" in family:
            vision["rotary_grid"] = 3
        parts = {"text_config": text, "vision_config": vision}
        model = kind(
            config(**{name: {**part, "projection_dim": 8} for name, part in parts.items()}, projection_dim=8)
        )
    shaken(model)
    return model.eval()


@torch.no_grad()
def shaken(model: nn.Module) -> None:
    """Add noise to every weight, so that no bias is 0 and no norm is 1."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def pictures(size: int, count: int = 5) -> Tensor:
    """Return uint8 (count, 3, size, size)."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


@dataclass(frozen=True)
class Size:
    """Of an EVA02 CLIP, as its public config gives it."""

    width: int
    layers: int
    heads: int
    patch: int
    image: int
    inner: int  # int(width * 2.6667)
    projection: int
    text_width: int
    text_layers: int
    vocabulary: int
    context: int

    @property
    def patches(self) -> int:
        """Number of patches."""
        return (self.image // self.patch) ** 2


# model_configs/EVA02-CLIP-B-16.json, EVA02-CLIP-L-14.json and EVA02-CLIP-L-14-336.json of EVA-CLIP
PUBLISHED = {
    "B-16": Size(768, 12, 12, 16, 224, 2048, 512, 512, 12, 49408, 77),
    "L-14": Size(1024, 24, 16, 14, 224, 2730, 768, 768, 12, 49408, 77),
    "L-14-336": Size(1024, 24, 16, 14, 336, 2730, 768, 768, 12, 49408, 77),
}
TINY = Size(16, 2, 2, 8, 32, 40, 12, 24, 2, 50, 9)


def eva_clip_shapes(size: Size, prefix: str = "visual.") -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of EVA-CLIP's EVAVisionTransformer with rope, subln and naiveswiglu."""
    width, inner, head = size.width, size.inner, size.width // size.heads
    yield f"{prefix}cls_token", (1, 1, width)
    yield f"{prefix}pos_embed", (1, size.patches + 1, width)
    yield f"{prefix}patch_embed.proj.weight", (width, 3, size.patch, size.patch)
    yield f"{prefix}patch_embed.proj.bias", (width,)
    ropes = [f"{prefix}rope", *(f"{prefix}blocks.{number}.attn.rope" for number in range(size.layers))]
    for rope in ropes:
        yield f"{rope}.freqs_cos", (size.patches, head)
        yield f"{rope}.freqs_sin", (size.patches, head)
    for number in range(size.layers):
        block = f"{prefix}blocks.{number}."
        for norm, of in (
            ("norm1", width),
            ("attn.inner_attn_ln", width),
            ("norm2", width),
            ("mlp.ffn_ln", inner),
        ):
            yield f"{block}{norm}.weight", (of,)
            yield f"{block}{norm}.bias", (of,)
        for name in ("q_proj", "k_proj", "v_proj"):
            yield f"{block}attn.{name}.weight", (width, width)
        yield f"{block}attn.q_bias", (width,)
        yield f"{block}attn.v_bias", (width,)
        yield f"{block}attn.proj.weight", (width, width)
        yield f"{block}attn.proj.bias", (width,)
        for name, rows, columns in (("w1", inner, width), ("w2", inner, width), ("w3", width, inner)):
            yield f"{block}mlp.{name}.weight", (rows, columns)
            yield f"{block}mlp.{name}.bias", (rows,)
    yield f"{prefix}norm.weight", (width,)
    yield f"{prefix}norm.bias", (width,)
    yield f"{prefix}head.weight", (size.projection, width)
    yield f"{prefix}head.bias", (size.projection,)


def text_shapes(size: Size, prefix: str = "text.") -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of TextTransformer, EVA-CLIP's and open_clip's, and of the logit scale."""
    width = size.text_width
    yield f"{prefix}token_embedding.weight", (size.vocabulary, width)
    yield f"{prefix}positional_embedding", (size.context, width)
    for number in range(size.text_layers):
        block = f"{prefix}transformer.resblocks.{number}."
        for norm in ("ln_1", "ln_2"):
            yield f"{block}{norm}.weight", (width,)
            yield f"{block}{norm}.bias", (width,)
        yield f"{block}attn.in_proj_weight", (3 * width, width)
        yield f"{block}attn.in_proj_bias", (3 * width,)
        yield f"{block}attn.out_proj.weight", (width, width)
        yield f"{block}attn.out_proj.bias", (width,)
        yield f"{block}mlp.c_fc.weight", (4 * width, width)
        yield f"{block}mlp.c_fc.bias", (4 * width,)
        yield f"{block}mlp.c_proj.weight", (width, 4 * width)
        yield f"{block}mlp.c_proj.bias", (width,)
    yield f"{prefix}ln_final.weight", (width,)
    yield f"{prefix}ln_final.bias", (width,)
    yield f"{prefix}text_projection", (width, size.projection)
    yield "logit_scale", ()


# what timm's checkpoint_filter_fn makes of EVA-CLIP's names
TIMM_NAMES = {
    "mlp.ffn_ln": "mlp.norm",
    "attn.inner_attn_ln": "attn.norm",
    "mlp.w1": "mlp.fc1_g",
    "mlp.w2": "mlp.fc1_x",
    "mlp.w3": "mlp.fc2",
    "q_bias": "q_proj.bias",
    "v_bias": "v_proj.bias",
}


def as_timm(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Rename the vision tower of an EVA-CLIP checkpoint as timm does, without its tables of angles."""
    renamed = {}
    for name, tensor in tensors.items():
        if "rope" in name:
            continue
        new = name
        if name.startswith("visual."):
            for old, replacement in TIMM_NAMES.items():
                new = new.replace(old, replacement)
            new = prefix + new.removeprefix("visual.")
        renamed[new] = tensor
    return renamed
