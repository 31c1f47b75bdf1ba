"""Models of two towers, CLIP, SigLIP and EVA-CLIP: load, save, embed images and texts.

Where an arm or a control needs a vision tower only, `load_base` takes one without a text tower as well.
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

LEGACY_EOS = 2  # configs with it pool at the highest token id, see CLIPTextModel of transformers

CLIPS: dict[str, Any] = {
    "clip": CLIPModel,
    "conv_stem_clip": ConvStemCLIPModel,
    "siglip": SiglipModel,
    "eva02_clip": Eva02CLIPModel,
}


def load_clip(folder: Path) -> Any:  # noqa: ANN401 - one of `CLIPS`
    """Load a model of two towers in evaluation mode, float32, from safetensors.

    Raises:
        ValueError: it has a vision tower only, or it is refused as `load_model` refuses.
    """
    if not has_text_tower(folder):
        raise ValueError(
            f"{folder} is of type {model_type_of(folder)}, without a text tower; expected one of "
            f"{', '.join(CLIPS)}: take another base_models.clip, or do without what embeds texts by it"
        )
    return _without_bias(load_model(folder, CLIPS))


def load_base(folder: Path) -> Any:  # noqa: ANN401 - one of `CLIPS` or `VISION_ENCODERS`
    """Load a model of two towers, or a vision tower alone; see `load_clip`."""
    return _without_bias(load_model(folder, {**CLIPS, **VISION_ENCODERS}))


def has_text_tower(folder: Path) -> bool:
    """Return whether a folder holds more than a vision tower, by its config.

    Raises:
        ValueError: there is no config.json.
    """
    return model_type_of(folder) not in VISION_ENCODERS


def save_clip(model: Any, folder: Path) -> None:  # noqa: ANN401 - one of `CLIPS`
    """Save a model in Hugging Face layout, with the config of the image processor it expects."""
    model.save_pretrained(folder)
    write_preprocessor(folder, model.config.vision_config)


def save_clip_tokenizer(tokenizer: Any, folder: Path) -> None:  # noqa: ANN401 - of transformers
    """Save a tokenizer beside its model: plain transformers reads special tokens in a text as text as well.

    Those that `plain_text` writes with a space excepted.
    """
    tokenizer = copy.deepcopy(tokenizer)
    if backend := getattr(tokenizer, "backend_tokenizer", None):
        backend.no_truncation()  # of the last call
        backend.no_padding()
    tokenizer.split_special_tokens = tokenizer.init_kwargs["split_special_tokens"] = True
    tokenizer.save_pretrained(folder)


def load_clip_tokenizer(folder: Path) -> Any:  # noqa: ANN401 - a tokenizer of transformers
    """Load the tokenizer that lies beside a model; it pads on the right, as CLIP and SigLIP do.

    Raises:
        ValueError: there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder} has no tokenizer that loads ({str(error).splitlines()[0]}); expected "
            "tokenizer.json, or what the model was published with"
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
        ValueError: tokenizer and model do not belong together, see `text_tokens`.
    """
    ids, mask = text_tokens(model, tokenizer, texts)
    return F.normalize(text_features(model, ids.to(model.device), mask.to(model.device)), dim=-1)


def text_tokens(model: Any, tokenizer: Any, texts: list[str]) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return token ids and mask (B, T), as the model's text tower wants them, padded on the right.

    Special tokens in a text are plain text. SigLIP pools at its last position, padding or not: a text is
    padded to the whole context, and all is seen.

    Raises:
        ValueError: tokenizer and model do not agree on the end token, at whose place CLIP pools, or the
            tokenizer knows more tokens than the model.
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
    """Return which texts are longer than the model's context."""
    limit = int(model.config.text_config.max_position_embeddings)
    return [len(row) > limit for row in framed_ids(tokenizer, texts, limit + 1)]


def text_features(model: Any, ids: Tensor, mask: Tensor) -> Tensor:  # noqa: ANN401 - one of `CLIPS`
    """Return (B, D), un-normalised, of what `text_tokens` gave."""
    features: Tensor = model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
    return features


def with_context(model: Any, context_tokens: int) -> Any:  # noqa: ANN401 - one of `CLIPS`
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


def _padded(rows: list[list[int]], length: int, filler: int | None) -> tuple[Tensor, Tensor]:
    """Return token ids padded on the right, and which of them are real: (B, length) each."""
    if filler is None:
        raise ValueError("the tokenizer has no padding token; expected the one that belongs to the model")
    ids = torch.tensor([[*row, *(filler,) * (length - len(row))] for row in rows])
    lengths = torch.tensor([[len(row)] for row in rows])
    return ids, (torch.arange(length) < lengths).long()


def _is_siglip(model: Any) -> bool:  # noqa: ANN401
    return isinstance(model, SiglipModel)


def _without_bias(model: Any) -> Any:  # noqa: ANN401
    """Keep SigLIP's logit_bias out of training: a softmax over logits does not see it."""
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
