"""Infer the size of an EVA02-CLIP from the shapes of its weights.

What shapes cannot tell, the heads and the grid that the rotary positions were learned on, comes from the
config beside the checkpoint (`vision_cfg` of EVA-CLIP and open_clip, `model_args` of timm), or from the sizes
that are published.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import CLIPTextConfig

from components.ml.vision.eva02 import Eva02CLIPConfig, Eva02VisionConfig
from components.ml.vision.eva02_names import Converted

TEXT_HEAD = 64  # width, of every text tower of EVA-CLIP
# width, layers, patch: heads and rotary grid. EVA02-CLIP-B-16, -L-14, -L-14-336 in model_configs of EVA-CLIP,
# eva02_base_patch16_clip_224, eva02_large_patch14_clip_224 and _336 in timm
PUBLISHED = {(768, 12, 16): (12, 16), (1024, 24, 14): (16, 16)}


def config_of(converted: Converted, tree: dict[str, Any]) -> Eva02CLIPConfig | Eva02VisionConfig:
    """Return the config of converted weights.

    Args:
        converted: Only the shapes are read.
        tree: The config that lies beside the checkpoint, as JSON.

    Raises:
        ValueError: shapes that no ViT has, or a size whose heads are not known.
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
        raise ValueError(f"{len(positions)} positions; expected one and a square number: one class token")
    heads, grid = _heads_and_grid(width, layers, patch, tree)
    if heads < 1 or width % (4 * heads):
        raise ValueError(
            f"width {width} and {heads} heads; expected heads of a multiple of 4, which positions turn"
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
            f"an EVA02 of width {width}, {layers} layers and patches of {patch} pixels is none that was "
            "published, and no config tells its heads and the grid of its rotary positions; expected "
            "vision_cfg with head_width and pt_hw_seq_len, or model_args with num_heads and ref_feat_shape"
        )
    return heads, grid


def _text_config(tensors: dict[str, Tensor], tree: dict[str, Any]) -> CLIPTextConfig:
    """Return the config of the text tower, which pools at the highest token: the end in CLIP's vocabulary."""
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
