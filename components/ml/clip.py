"""CLIP of Hugging Face, plain or with our convolutional stem: load, save, embed, take apart."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

from components.ml.conv_stem import ConvStemCLIPModel, ConvStemCLIPVisionModelWithProjection

# OpenAI's CLIP (Radford et al. 2021), for RGB in 0..1; all CLIP models that we load share them
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
BYTE = 255.0
BICUBIC = 3  # PIL's number, as preprocessor_config.json writes it
LEGACY_EOS = 2  # configs with it pool at the highest token id, see CLIPTextModel of transformers
NAMED = 5
PREPROCESSOR = "preprocessor_config.json"

_CLIPS = {"clip": CLIPModel, "conv_stem_clip": ConvStemCLIPModel}
_VISION_ENCODERS = {
    "clip_vision_model": CLIPVisionModelWithProjection,
    "conv_stem_clip_vision_model": ConvStemCLIPVisionModelWithProjection,
}


def load_clip(folder: Path) -> CLIPModel:
    """Load a CLIP in evaluation mode, float32, from safetensors.

    Raises:
        ValueError: no CLIP, other mean or deviation than CLIP's, missing, odd or non-finite weights.
    """
    _check_preprocessor(folder)
    return _load(folder, _CLIPS)


def save_clip(model: CLIPModel, folder: Path) -> None:
    """Save a CLIP in Hugging Face layout, with the config of the image processor it expects."""
    model.save_pretrained(folder)
    write_preprocessor(folder, model.config.vision_config.image_size)


def load_clip_tokenizer(folder: Path) -> Any:  # noqa: ANN401 - a tokenizer of transformers
    """Load the tokenizer that lies beside a CLIP; it pads on the right, as CLIP does."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokenizer.padding_side = "right"
    return tokenizer


def clip_pixels(images: Tensor) -> Tensor:
    """Normalise uint8 (B, 3, H, W) to CLIP's mean 0 and deviation 1, float32 of the same shape."""
    mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=images.device).view(1, 3, 1, 1)
    return (images.float() / BYTE - mean) / std


def image_embeddings(model: CLIPModel, images: Tensor) -> Tensor:
    """Embed uint8 (B, 3, H, W): (B, D), rows of length 1."""
    return F.normalize(model.get_image_features(pixel_values=clip_pixels(images)).pooler_output, dim=-1)


def text_embeddings(model: CLIPModel, tokenizer: Any, texts: list[str]) -> Tensor:  # noqa: ANN401
    """Embed texts, cut to the model's context: (B, D), rows of length 1.

    Raises:
        ValueError: tokenizer and model do not agree on the end token, at whose place CLIP pools.
    """
    config = model.config.text_config
    tokens = tokenizer(
        texts, padding=True, truncation=True, max_length=config.max_position_embeddings, return_tensors="pt"
    )
    _check_end(tokens["input_ids"], config.eos_token_id, tokenizer.eos_token_id)
    tokens = tokens.to(model.device)
    features = model.get_text_features(
        input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
    ).pooler_output
    return F.normalize(features, dim=-1)


def with_context(model: CLIPModel, context_tokens: int) -> CLIPModel:
    """Return a copy of a model that reads `context_tokens` tokens.

    The positions it has stay as they are (fewer are cut); new ones are those of the old table stretched
    linearly to the new length, from where the old ones end: a start that training then improves.
    """
    model = copy.deepcopy(model)
    embeddings = model.text_model.embeddings
    old = embeddings.position_embedding.weight.detach()  # (T, width)
    stretched = F.interpolate(old.T[None], size=context_tokens, mode="linear", align_corners=True)[0].T
    kept = min(len(old), context_tokens)
    positions = torch.cat([old[:kept], stretched[kept:]])
    embeddings.position_embedding = nn.Embedding.from_pretrained(positions.clone(), freeze=False)
    embeddings.position_ids = nn.Buffer(
        torch.arange(context_tokens, device=old.device).expand((1, -1)), persistent=False
    )
    model.config.text_config.max_position_embeddings = context_tokens
    return model


def vision_encoder_of(model: CLIPModel, projection_dim: int | None) -> nn.Module:
    """Return a copy of the vision tower as a model of its own.

    Args:
        model: A CLIP.
        projection_dim: Width of a new random projection, by torch's global generator; None keeps it.
    """
    config = copy.deepcopy(model.config.vision_config)
    config.projection_dim = projection_dim or model.config.projection_dim
    kind = _VISION_ENCODERS[config.model_type]
    encoder: nn.Module = kind(config)
    encoder.get_submodule("vision_model").load_state_dict(model.vision_model.state_dict())
    if projection_dim is None:
        encoder.get_submodule("visual_projection").load_state_dict(model.visual_projection.state_dict())
    return encoder.train(model.training).to(model.device)


def save_vision_encoder(module: nn.Module, folder: Path) -> None:
    """Save a vision tower in Hugging Face layout, with the config of the image processor it expects."""
    model: Any = module
    model.save_pretrained(folder)
    write_preprocessor(folder, model.config.image_size)


def load_vision_encoder(folder: Path) -> nn.Module:
    """Load what `save_vision_encoder` saved, or any CLIPVisionModelWithProjection; as `load_clip` does."""
    _check_preprocessor(folder)
    return _load(folder, _VISION_ENCODERS)


def encode_images(vision_encoder: nn.Module, images: Tensor) -> Tensor:
    """Embed uint8 (B, 3, H, W) by a vision tower: (B, D), rows of length 1."""
    return F.normalize(vision_encoder(pixel_values=clip_pixels(images)).image_embeds, dim=-1)


def write_preprocessor(folder: Path, image_size: int) -> None:
    """Write preprocessor_config.json: what `images.decode_image` and `clip_pixels` do, in the hub's words."""
    tree = {
        "crop_size": {"height": image_size, "width": image_size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(MEAN),
        "image_processor_type": "CLIPImageProcessor",
        "image_std": list(STD),
        "resample": BICUBIC,
        "rescale_factor": 1 / BYTE,
        "size": {"shortest_edge": image_size},
    }
    (folder / PREPROCESSOR).write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n")


def _load(folder: Path, kinds: dict[str, Any]) -> Any:  # noqa: ANN401 - one of `kinds`
    path = folder / "config.json"
    model_type = json.loads(path.read_text("utf-8")).get("model_type") if path.is_file() else None
    if model_type not in kinds:
        found = f"a model of type {model_type}" if path.is_file() else "no config.json"
        raise ValueError(f"{folder} has {found}; expected one of {', '.join(kinds)}")
    try:
        model, report = kinds[model_type].from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from None
    odd = [str(key) for kind in ("missing_keys", "mismatched_keys") for key in sorted(report[kind])]
    odd += [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if odd:
        raise ValueError(
            f"{folder}: {len(odd)} weights are missing, of another shape or not finite "
            f"({', '.join(odd[:NAMED])}); expected all of a {model_type}"
        )
    return model.eval()


def _check_preprocessor(folder: Path) -> None:
    path = folder / PREPROCESSOR
    if not path.is_file():
        return
    tree = json.loads(path.read_text("utf-8"))
    for key, expected in (("image_mean", MEAN), ("image_std", STD)):
        found = tree.get(key, expected)
        if any(abs(a - b) > 1e-4 for a, b in zip(found, expected, strict=True)):
            raise ValueError(
                f"{path} has {key} {found}; expected CLIP's {list(expected)}: take another model"
            )


def _check_end(ids: Tensor, pooled_id: int, end_id: int | None) -> None:
    pooled = ids.argmax(1) if pooled_id == LEGACY_EOS else ids.eq(pooled_id).int().argmax(1)
    ends = ids.eq(-1 if end_id is None else end_id)
    if not ends.any(1).all() or (ends.int().argmax(1) != pooled).any():
        raise ValueError(
            f"the tokenizer ends texts with token {end_id} and the model pools at {pooled_id}; "
            "expected the same: take the tokenizer that belongs to the model"
        )
