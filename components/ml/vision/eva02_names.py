"""Weight names of EVA02-CLIP checkpoints, mapped to ours.

EVA-CLIP's own (baaivision/EVA, EVA-CLIP/rei/eva_clip: CLIP, CustomCLIP, EVAVisionTransformer) and timm's (Eva
with `eva02_*_clip_*`, alone or inside open_clip as `visual.trunk.`). Both have the text tower of open_clip.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

VISION_PREFIXES = ("visual.trunk.", "visual.", "trunk.", "")
TEXT_PREFIXES = ("text.", "")
NAMED = 5

_BLOCK = r"blocks\.(\d+)\."
_LAYER = r"vision_model.encoder.layers.\1."
_RESIDUAL = r"transformer\.resblocks\.(\d+)\."
_TEXT_LAYER = r"text_model.encoder.layers.\1."

VISION_RULES = (
    (r"cls_token", "vision_model.embeddings.class_embedding"),
    (r"pos_embed", "vision_model.embeddings.position_embedding.weight"),
    (r"patch_embed\.proj\.(weight|bias)", r"vision_model.embeddings.patch_embedding.\1"),
    (rf"{_BLOCK}norm([12])\.(weight|bias)", rf"{_LAYER}layer_norm\2.\3"),
    (rf"{_BLOCK}attn\.([qkv])_proj\.weight", rf"{_LAYER}self_attn.\2_proj.weight"),
    (rf"{_BLOCK}attn\.([qv])(?:_bias|_proj\.bias)", rf"{_LAYER}self_attn.\2_proj.bias"),
    (rf"{_BLOCK}attn\.(?:inner_attn_ln|norm)\.(weight|bias)", rf"{_LAYER}self_attn.inner_norm.\2"),
    (rf"{_BLOCK}attn\.proj\.(weight|bias)", rf"{_LAYER}self_attn.out_proj.\2"),
    (rf"{_BLOCK}mlp\.(?:w1|fc1_g)\.(weight|bias)", rf"{_LAYER}mlp.gate_proj.\2"),
    (rf"{_BLOCK}mlp\.(?:w2|fc1_x)\.(weight|bias)", rf"{_LAYER}mlp.up_proj.\2"),
    (rf"{_BLOCK}mlp\.(?:ffn_ln|norm)\.(weight|bias)", rf"{_LAYER}mlp.inner_norm.\2"),
    (rf"{_BLOCK}mlp\.(?:w3|fc2)\.(weight|bias)", rf"{_LAYER}mlp.down_proj.\2"),
    (r"norm\.(weight|bias)", r"vision_model.post_layernorm.\1"),
    (r"head\.(weight|bias)", r"visual_projection.\1"),
)
TEXT_RULES = (
    (r"token_embedding\.weight", "text_model.embeddings.token_embedding.weight"),
    (r"positional_embedding", "text_model.embeddings.position_embedding.weight"),
    (rf"{_RESIDUAL}ln_([12])\.(weight|bias)", rf"{_TEXT_LAYER}layer_norm\2.\3"),
    (rf"{_RESIDUAL}attn\.in_proj_(weight|bias)", rf"{_TEXT_LAYER}self_attn.QKV_proj.\2"),
    (rf"{_RESIDUAL}attn\.out_proj\.(weight|bias)", rf"{_TEXT_LAYER}self_attn.out_proj.\2"),
    (rf"{_RESIDUAL}mlp\.c_fc\.(weight|bias)", rf"{_TEXT_LAYER}mlp.fc1.\2"),
    (rf"{_RESIDUAL}mlp\.c_proj\.(weight|bias)", rf"{_TEXT_LAYER}mlp.fc2.\2"),
    (r"ln_final\.(weight|bias)", r"text_model.final_layer_norm.\1"),
    (r"text_projection", "text_projection.weight"),
)
LEFT_OUT = {
    r"(blocks\.\d+\.attn\.)?rope\.freqs_(cos|sin)": "the angles of the rotary positions, which are computed",
    r"attn_mask": "the causal mask of the text tower, which is computed",
}
SCALE = "logit_scale"
TEXT = "text_"  # what our names of the text tower start with
ROTARY = "rope.freqs_cos"


@dataclass(frozen=True)
class Converted:
    """Weights under our names, and what was not taken."""

    tensors: dict[str, Tensor]
    left_out: dict[str, str]  # why, by the name in the checkpoint
    rotary: Tensor | None  # (patches, head width), the cosines that the checkpoint keeps

    @property
    def has_text(self) -> bool:
        """Whether there is a text tower."""
        return any(name.startswith(TEXT) for name in self.tensors)


def convert(tensors: Mapping[str, Tensor]) -> Converted:
    """Bring the weights of a checkpoint under our names.

    Args:
        tensors: Of an EVA02 CLIP, whole or its vision tower alone, in one of the two layouts; no number is
            read, so they may lie on the meta device.

    Raises:
        ValueError: names of no such checkpoint; the first five are told.
    """
    prefix = _vision_prefix(tensors)
    found: dict[str, Tensor] = {}
    left_out: dict[str, str] = {}
    odd: list[str] = []
    for name, tensor in tensors.items():
        if reason := _reason(name, prefix):
            left_out[name] = reason
        elif name in {SCALE, f"text.{SCALE}"}:
            found[SCALE] = tensor.reshape(())
        elif target := _renamed(name, prefix):
            found.update(_laid_out(target, tensor))
        else:
            odd.append(name)
    if odd:
        raise ValueError(
            f"{len(odd)} weights have names that an EVA02 CLIP does not have "
            f"({', '.join(sorted(odd)[:NAMED])}); expected those of EVA-CLIP or of timm's eva02_*_clip_*"
        )
    if not any(name.startswith(TEXT) for name in found) and found.pop(SCALE, None) is not None:
        left_out[SCALE] = "the logit scale, which a vision tower alone does not have"
    return Converted(found, left_out, tensors.get(f"{prefix}{ROTARY}"))


def _vision_prefix(tensors: Mapping[str, Tensor]) -> str:
    for prefix in VISION_PREFIXES:
        if f"{prefix}cls_token" in tensors and f"{prefix}blocks.0.attn.q_proj.weight" in tensors:
            return prefix
    names = ", ".join(sorted(tensors)[:NAMED]) or "none"
    raise ValueError(
        f"no weights of an EVA02 vision tower (first names: {names}); expected cls_token and "
        "blocks.0.attn.q_proj.weight, by themselves or after visual. or visual.trunk."
    )


def _reason(name: str, prefix: str) -> str | None:
    bare = [name.removeprefix(one) for one in (prefix, *TEXT_PREFIXES)]
    for pattern, reason in LEFT_OUT.items():
        if any(re.fullmatch(pattern, one) for one in bare):
            return reason
    return None


def _renamed(name: str, prefix: str) -> str | None:
    if name.startswith(prefix) and (target := _by_rules(name.removeprefix(prefix), VISION_RULES)):
        return target
    return _by_rules(name.removeprefix("text."), TEXT_RULES)


def _by_rules(name: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, target in rules:
        if match := re.fullmatch(pattern, name):
            return match.expand(target)
    return None


def _laid_out(target: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return a weight in the shape that we keep it in, that of queries, keys and values as three."""
    if "QKV" in target:
        parts = tensor.chunk(3)
        return {target.replace("QKV", part): one for part, one in zip("qkv", parts, strict=True)}
    shape: Callable[[Tensor], Tensor] = {
        "vision_model.embeddings.class_embedding": lambda one: one.reshape(-1),
        "vision_model.embeddings.position_embedding.weight": lambda one: one.reshape(-1, one.shape[-1]),
        "text_projection.weight": lambda one: one.T,
    }.get(target, lambda one: one)
    return {target: shape(tensor)}
