"""Convert public EVA02-CLIP checkpoints from the layout of EVA-CLIP or timm.

Weights are renamed and sizes are inferred. The table of rotary angles of EVA-CLIP must agree with them. Only
safetensors are read: the `.pt` files of EVA-CLIP are pickles.

Sizes come from the shapes of the weights. The number of heads and the grid of the rotary positions have no
shape; they come from the config beside the checkpoint (`vision_cfg` of EVA-CLIP and open_clip, `model_args`
of timm), or from the list of published sizes.

Names: EVA-CLIP's own (baaivision/EVA, EVA-CLIP/rei/eva_clip: CLIP, CustomCLIP, EVAVisionTransformer) and
timm's (Eva with `eva02_*_clip_*`, alone or inside open_clip as `visual.trunk.`). Both have the text tower of
open_clip.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig

from components.ml.vision.eva02 import (
    Eva02CLIPConfig,
    Eva02CLIPModel,
    Eva02VisionConfig,
    Eva02VisionModelWithProjection,
    rotations,
)
from components.ml.vision.normalisation import CLIP, Normalisation, set_normalisation, write_preprocessor

CONFIGS = ("config.json", "open_clip_config.json")
WEIGHTS = "model.safetensors"
ANGLE_TOLERANCE = 2e-3  # of a cosine stored in half precision

log = logging.getLogger(__name__)
TEXT_HEAD = 64  # width, of every text tower of EVA-CLIP
# (width, layers, patch): (heads, rotary grid). EVA02-CLIP-B-16, -L-14, -L-14-336 in EVA-CLIP's model_configs,
# eva02_base_patch16_clip_224, eva02_large_patch14_clip_224 and _336 in timm
PUBLISHED = {(768, 12, 16): (12, 16), (1024, 24, 14): (16, 16)}
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
TEXT = "text_"  # prefix of our names of the text tower
ROTARY = "rope.freqs_cos"


def convert_folder(folder: Path) -> bool:
    """Convert a checkpoint in place; return False if it was in Hugging Face layout already.

    Raises:
        ValueError: it is no EVA02 CLIP, its weights are incomplete, or its sizes are unknown.
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
    weights = {name: tensor.float().contiguous() for name, tensor in converted.tensors.items()}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    config.save_pretrained(folder)
    write_preprocessor(folder, vision)
    for reason in sorted(set(converted.left_out.values())):
        count = list(converted.left_out.values()).count(reason)
        log.info("%d tensors of the EVA02 checkpoint are skipped: %s", count, reason)
    return True


def check_complete(converted: Converted, config: Eva02CLIPConfig | Eva02VisionConfig) -> None:
    """Check that names and shapes of the weights are exactly those of the model.

    Raises:
        ValueError: they are not; names the first five differences.
    """
    kind: Any = Eva02CLIPModel if isinstance(config, Eva02CLIPConfig) else Eva02VisionModelWithProjection
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in kind(config).state_dict().items()}
    actual = {name: tuple(tensor.shape) for name, tensor in converted.tensors.items()}
    differences = [
        f"{name} {actual.get(name, 'missing')}"
        for name in sorted(expected | actual)
        if actual.get(name) != expected.get(name)
    ]
    if differences:
        raise ValueError(
            f"{len(differences)} weights of an EVA02 CLIP are missing or of another shape "
            f"({', '.join(differences[:NAMED])}); expected a whole checkpoint: download it again"
        )


def _check_rotary(stored: Tensor | None, config: Any) -> None:  # noqa: ANN401
    """Compare the rotary angles of a checkpoint with those of its config."""
    if stored is None:
        return
    computed, _ = rotations(config)
    if stored.shape != computed.shape or not torch.allclose(
        stored.float(), computed, atol=ANGLE_TOLERANCE, rtol=0
    ):
        raise ValueError(
            f"the checkpoint's rotary angles {tuple(stored.shape)} are not those of "
            f"{config.num_attention_heads} heads on a grid of {config.rotary_grid}, {tuple(computed.shape)}; "
            "expected the same: add the config.json that belongs to the checkpoint"
        )


def _normalisation(tree: dict[str, Any]) -> Normalisation:
    section = tree.get("preprocess_cfg") or tree.get("pretrained_cfg") or {}
    return Normalisation(tuple(section.get("mean", CLIP.mean)), tuple(section.get("std", CLIP.deviation)))


def _config_of(folder: Path) -> dict[str, Any]:
    """Return the config beside a checkpoint: open_clip_config.json, overridden by config.json."""
    tree: dict[str, Any] = {}
    for name in reversed(CONFIGS):
        path = folder / name
        if not path.is_file():
            continue
        config = json.loads(path.read_text("utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"{path} holds no JSON object; expected the config of a model")
        tree |= config
    return tree


def config_of(converted: Converted, tree: dict[str, Any]) -> Eva02CLIPConfig | Eva02VisionConfig:
    """Return the config of converted weights.

    Args:
        converted: Only the shapes are read.
        tree: JSON config from beside the checkpoint.

    Raises:
        ValueError: shapes that no ViT has, or a size whose number of heads is unknown.
    """
    vision = _vision_config(converted.tensors, tree)
    if not converted.has_text:
        return vision
    text = _text_config(converted.tensors, tree)
    return Eva02CLIPConfig(
        vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=vision.projection_dim
    )


def _vision_config(tensors: dict[str, Tensor], tree: dict[str, Any]) -> Eva02VisionConfig:
    patches = _tensor(tensors, "vision_model.embeddings.patch_embedding.weight")  # (width, 3, patch, patch)
    positions = _tensor(tensors, "vision_model.embeddings.position_embedding.weight")  # (1 + patches, width)
    gate = _tensor(tensors, "vision_model.encoder.layers.0.mlp.gate_proj.weight")  # (inner, width)
    projection = _tensor(tensors, "visual_projection.weight")  # (D, width)
    width, patch, layers = patches.shape[0], patches.shape[-1], _layers(tensors, "vision_model.")
    side = round((len(positions) - 1) ** 0.5)
    if side**2 + 1 != len(positions):
        raise ValueError(f"{len(positions)} positions; expected a square number and one for the class token")
    heads, grid = _heads_and_grid(width, layers, patch, tree)
    if heads < 1 or width % (4 * heads):
        raise ValueError(
            f"width {width} and {heads} heads; expected a head width that is a multiple of 4, for "
            "rotary positions"
        )
    return Eva02VisionConfig(
        hidden_size=width,
        intermediate_size=gate.shape[0],
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=side * patch,
        patch_size=patch,
        projection_dim=projection.shape[0],
        rotary_grid=grid,
    )


def _heads_and_grid(width: int, layers: int, patch: int, tree: dict[str, Any]) -> tuple[int, int]:
    published = PUBLISHED.get((width, layers, patch), (None, None))
    vision = tree.get("model_cfg", tree).get("vision_cfg", {})
    arguments = tree.get("model_args", {})
    head_width, shape = vision.get("head_width"), arguments.get("ref_feat_shape", published[1])
    heads = width // head_width if head_width else arguments.get("num_heads", published[0])
    grid = vision.get("pt_hw_seq_len", shape[0] if isinstance(shape, list | tuple) else shape)
    if not isinstance(heads, int) or not isinstance(grid, int):
        raise ValueError(
            f"an EVA02 of width {width}, {layers} layers and patches of {patch} pixels is not "
            "published, and no config gives its heads and the grid of its rotary positions; expected "
            "vision_cfg with head_width and pt_hw_seq_len, or model_args with num_heads and ref_feat_shape"
        )
    return heads, grid


def _text_config(tensors: dict[str, Tensor], tree: dict[str, Any]) -> CLIPTextConfig:
    """Return the config of the text tower; it pools at the highest token id, the end token of CLIP."""
    settings = tree.get("model_cfg", tree)
    words = _tensor(tensors, "text_model.embeddings.token_embedding.weight")  # (vocabulary, width)
    inner = _tensor(tensors, "text_model.encoder.layers.0.mlp.fc1.weight")
    projection = _tensor(tensors, "text_projection.weight")
    heads = settings.get("text_cfg", {}).get("heads", max(words.shape[1] // TEXT_HEAD, 1))
    return CLIPTextConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        intermediate_size=inner.shape[0],
        num_hidden_layers=_layers(tensors, "text_model."),
        num_attention_heads=heads,
        max_position_embeddings=len(_tensor(tensors, "text_model.embeddings.position_embedding.weight")),
        projection_dim=projection.shape[0],
        hidden_act="quick_gelu" if settings.get("quick_gelu") else "gelu",
        bos_token_id=words.shape[0] - 2,
        eos_token_id=words.shape[0] - 1,
        pad_token_id=0,
    )


def _layers(tensors: dict[str, Tensor], prefix: str) -> int:
    start = f"{prefix}encoder.layers."
    numbers = [int(name[len(start) :].split(".")[0]) for name in tensors if name.startswith(start)]
    return 1 + max(numbers, default=-1)


def _tensor(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"an EVA02 CLIP without {name}; expected a whole checkpoint, its projection with it")
    return tensors[name]


@dataclass(frozen=True)
class Converted:
    """Renamed weights, and the weights that were skipped."""

    tensors: dict[str, Tensor]
    left_out: dict[str, str]  # reason, by the name in the checkpoint
    rotary: Tensor | None  # (patches, head width), cosines stored in the checkpoint

    @property
    def has_text(self) -> bool:
        """True if there is a text tower."""
        return any(name.startswith(TEXT) for name in self.tensors)


def convert(tensors: Mapping[str, Tensor]) -> Converted:
    """Rename the weights of a checkpoint.

    Args:
        tensors: Weights of an EVA02 CLIP, or of its vision tower alone, in one of the two layouts. Only names
            and shapes are used, so they may be on the meta device.

    Raises:
        ValueError: the names are of no such checkpoint; names the first five.
    """
    prefix = _vision_prefix(tensors)
    renamed: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        if reason := _skip_reason(name, prefix):
            skipped[name] = reason
        elif name in {SCALE, f"text.{SCALE}"}:
            renamed[SCALE] = tensor.reshape(())
        elif target := _renamed(name, prefix):
            renamed.update(_reshaped(target, tensor))
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(
            f"{len(unknown)} weights have names that an EVA02 CLIP does not have "
            f"({', '.join(sorted(unknown)[:NAMED])}); expected those of EVA-CLIP or of timm's eva02_*_clip_*"
        )
    if not any(name.startswith(TEXT) for name in renamed) and renamed.pop(SCALE, None) is not None:
        skipped[SCALE] = "the logit scale, which a vision tower alone does not have"
    return Converted(renamed, skipped, tensors.get(f"{prefix}{ROTARY}"))


def _vision_prefix(tensors: Mapping[str, Tensor]) -> str:
    for prefix in VISION_PREFIXES:
        if f"{prefix}cls_token" in tensors and f"{prefix}blocks.0.attn.q_proj.weight" in tensors:
            return prefix
    names = ", ".join(sorted(tensors)[:NAMED]) or "none"
    raise ValueError(
        f"no weights of an EVA02 vision tower (first names: {names}); expected cls_token and "
        "blocks.0.attn.q_proj.weight, alone or after visual. or visual.trunk."
    )


def _skip_reason(name: str, prefix: str) -> str | None:
    names = [name.removeprefix(candidate) for candidate in (prefix, *TEXT_PREFIXES)]
    for pattern, reason in LEFT_OUT.items():
        if any(re.fullmatch(pattern, candidate) for candidate in names):
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


def _reshaped(target: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return a weight in our shape; the joint one of queries, keys and values is split into three."""
    if "QKV" in target:
        parts = tensor.chunk(3)
        return {target.replace("QKV", letter): part for letter, part in zip("qkv", parts, strict=True)}
    shape: Callable[[Tensor], Tensor] = {
        "vision_model.embeddings.class_embedding": lambda weight: weight.reshape(-1),
        "vision_model.embeddings.position_embedding.weight": lambda weight: weight.reshape(
            -1, weight.shape[-1]
        ),
        "text_projection.weight": lambda weight: weight.T,
    }.get(target, lambda weight: weight)
    return {target: shape(tensor)}
