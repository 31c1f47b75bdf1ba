"""Models of two towers, CLIP, SigLIP and EVA-CLIP: load, save, embed images and texts.

`load_base` also accepts a vision tower without a text tower, for arms and controls that embed no text by it.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel, SiglipModel

from components.ml.text.plain_text import framed_ids
from components.ml.vision.conv_stem import ConvStemCLIPModel
from components.ml.vision.eva02 import Eva02CLIPModel
from components.ml.vision.normalisation import write_preprocessor
from components.ml.vision.towers import VISION_ENCODERS, encode_images, load_model, model_type_of, pixels_for

LEGACY_EOS = 2  # with this eos id CLIPTextModel of transformers pools at the highest token id

CLIPS: dict[str, Any] = {
    "clip": CLIPModel,
    "conv_stem_clip": ConvStemCLIPModel,
    "siglip": SiglipModel,
    "eva02_clip": Eva02CLIPModel,
}


def load_clip(folder: Path) -> Any:  # noqa: ANN401 - one of `CLIPS`
    """Load a model of two towers in evaluation mode, float32, from safetensors.

    Raises:
        ValueError: it has only a vision tower, or `load_model` refuses it.
    """
    if not has_text_tower(folder):
        raise ValueError(
            f"{folder} is of type {model_type_of(folder)}, without a text tower; expected one of "
            f"{', '.join(CLIPS)}: take another base_models.clip, or remove what embeds texts by it"
        )
    return _freeze_bias(load_model(folder, CLIPS))


def load_base(folder: Path) -> Any:  # noqa: ANN401 - one of `CLIPS` or `VISION_ENCODERS`
    """Load a model of two towers, or a vision tower alone; see `load_clip`."""
    return _freeze_bias(load_model(folder, {**CLIPS, **VISION_ENCODERS}))


def has_text_tower(folder: Path) -> bool:
    """Return True if the config of a folder is of a model with a text tower.

    Raises:
        ValueError: there is no config.json.
    """
    return model_type_of(folder) not in VISION_ENCODERS


def save_clip(model: Any, folder: Path) -> None:  # noqa: ANN401 - one of `CLIPS`
    """Save a model in Hugging Face layout, with the config of its image processor."""
    model.save_pretrained(folder)
    write_preprocessor(folder, model.config.vision_config)


def save_clip_tokenizer(tokenizer: Any, folder: Path) -> None:  # noqa: ANN401 - of transformers
    """Save a tokenizer beside its model so that plain transformers reads special tokens in a text as text.

    Exceptions are those that `plain_text` writes with a space.
    """
    tokenizer = copy.deepcopy(tokenizer)
    if backend := getattr(tokenizer, "backend_tokenizer", None):
        backend.no_truncation()  # set by the last call
        backend.no_padding()
    tokenizer.split_special_tokens = tokenizer.init_kwargs["split_special_tokens"] = True
    tokenizer.save_pretrained(folder)


def load_clip_tokenizer(folder: Path) -> Any:  # noqa: ANN401 - a tokenizer of transformers
    """Load the tokenizer of a model folder; it pads on the right, as CLIP and SigLIP do.

    Raises:
        ValueError: the folder has no tokenizer that loads.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder} has no tokenizer that loads ({str(error).splitlines()[0]}); expected "
            "tokenizer.json, or the tokenizer that the model was published with"
        ) from None
    tokenizer.padding_side = "right"
    return tokenizer


def image_embeddings(model: Any, images: Tensor) -> Tensor:  # noqa: ANN401 - one of `CLIPS` or a tower
    """Embed uint8 (B, 3, H, W): (B, D), rows of length 1."""
    if not hasattr(model, "text_model"):
        return encode_images(model, images)
    return F.normalize(model.get_image_features(pixel_values=pixels_for(model, images)).pooler_output, dim=-1)


def text_embeddings(model: Any, tokenizer: Any, texts: list[str]) -> Tensor:  # noqa: ANN401
    """Embed texts, cut to the model's context: (B, D), rows of length 1.

    Raises:
        ValueError: tokenizer and model do not fit each other, see `text_tokens`.
    """
    ids, mask = text_tokens(model, tokenizer, texts)
    return F.normalize(text_features(model, ids.to(model.device), mask.to(model.device)), dim=-1)


def text_tokens(model: Any, tokenizer: Any, texts: list[str]) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return token ids and mask (B, T) for the model's text tower, padded on the right.

    Special tokens in a text are plain text. SigLIP pools at its last position, padding or not, so its texts
    are padded to the whole context, without a mask.

    Raises:
        ValueError: tokenizer and model have different end tokens, at which CLIP pools, or the tokenizer has
            more tokens than the model.
    """
    config = model.config.text_config
    limit = int(config.max_position_embeddings)
    rows = framed_ids(tokenizer, texts, limit)
    ids, mask = _padded(rows, limit if _is_siglip(model) else max(map(len, rows)), tokenizer.pad_token_id)
    if int(ids.max()) >= config.vocab_size:
        raise ValueError(
            f"the tokenizer gives token {int(ids.max())} and the model knows {config.vocab_size} tokens; "
            "expected fewer: take the tokenizer that belongs to the model"
        )
    if _is_siglip(model):
        return ids, torch.ones_like(ids)
    _check_end(ids, config.eos_token_id, tokenizer.eos_token_id)
    return ids, mask


def are_cut(model: Any, tokenizer: Any, texts: list[str]) -> list[bool]:  # noqa: ANN401
    """Return for each text whether it is longer than the model's context."""
    limit = int(model.config.text_config.max_position_embeddings)
    return [len(row) > limit for row in framed_ids(tokenizer, texts, limit + 1)]


def text_features(model: Any, ids: Tensor, mask: Tensor) -> Tensor:  # noqa: ANN401 - one of `CLIPS`
    """Return text embeddings (B, D), un-normalised, of ids and mask from `text_tokens`."""
    features: Tensor = model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
    return features


def with_context(model: Any, context_tokens: int) -> Any:  # noqa: ANN401 - one of `CLIPS`
    """Return a copy of a model with a context of `context_tokens` tokens.

    Existing positions do not change (or are cut). New positions come from the old table, stretched linearly
    to the new length; they are a start for training.
    """
    model = copy.deepcopy(model)
    embeddings = model.text_model.embeddings
    old = embeddings.position_embedding.weight.detach()  # (T, width)
    stretched = F.interpolate(old.T[None], size=context_tokens, mode="linear", align_corners=True)[0].T
    shared = min(len(old), context_tokens)
    positions = torch.cat([old[:shared], stretched[shared:]])
    embeddings.position_embedding = nn.Embedding.from_pretrained(positions.clone(), freeze=False)
    embeddings.position_ids = nn.Buffer(
        torch.arange(context_tokens, device=old.device).expand((1, -1)), persistent=False
    )
    model.config.text_config.max_position_embeddings = context_tokens
    return model


def _padded(rows: list[list[int]], length: int, filler: int | None) -> tuple[Tensor, Tensor]:
    """Return token ids padded on the right, and a mask of real tokens: (B, length) each."""
    if filler is None:
        raise ValueError("the tokenizer has no padding token; expected the one that belongs to the model")
    ids = torch.tensor([[*row, *(filler,) * (length - len(row))] for row in rows])
    lengths = torch.tensor([[len(row)] for row in rows])
    return ids, (torch.arange(length) < lengths).long()


def _is_siglip(model: Any) -> bool:  # noqa: ANN401
    return isinstance(model, SiglipModel)


def _freeze_bias(model: Any) -> Any:  # noqa: ANN401
    """Freeze SigLIP's logit_bias: a softmax over logits does not depend on it."""
    if isinstance(model, SiglipModel):
        model.logit_bias.requires_grad_(False)
    return model


def _check_end(ids: Tensor, pooled_id: int, end_id: int | None) -> None:
    pooled = ids.argmax(1) if pooled_id == LEGACY_EOS else ids.eq(pooled_id).int().argmax(1)
    ends = ids.eq(-1 if end_id is None else end_id)
    if not ends.any(1).all() or (ends.int().argmax(1) != pooled).any():
        raise ValueError(
            f"the tokenizer ends texts with token {end_id} and the model pools at {pooled_id}; "
            "expected the same: take the tokenizer that belongs to the model"
        )
