"""Train a small CLIP with a convolutional stem on scenes, or leave its weights random."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.base_models.model_builder import ModelBuilder, write_about
from components.base_models.training_data import Captions, SceneSet, read_scene_sets, read_texts
from components.ml.losses.contrastive import clip_loss
from components.ml.schedule import batch_rows
from components.ml.text.bpe import train_bpe
from components.ml.vision.clip import image_embeddings, save_clip, text_embeddings
from components.ml.vision.conv_stem import ConvStemCLIPConfig, ConvStemCLIPModel
from components.settings.base_models import MadeClip

MLP_EXPANSION = 4
MAX_LOG_LOGIT_SCALE = math.log(100)  # Radford et al. 2021, section 2.5
HELD_OUT_COLUMN = "short"
HELD_OUT_BATCH = 100


def make_clip(section: MadeClip, builder: ModelBuilder) -> Path:
    """Make the CLIP, or reuse a cached one; return its folder with tokenizer and `about.json`."""
    texts = read_texts(section.texts, builder)
    train, held_out = read_scene_sets(section.scenes, builder) if section.scenes else (None, None)
    scenes_key = [train.key, held_out.key] if train and held_out else None
    identity = {
        "code": builder.code_of("clip"),
        "clip": section.model_dump(),
        "texts": texts.key,
        "scenes": scenes_key,
    }

    def make(folder: Path) -> None:
        torch.manual_seed(builder.seed)
        tokenizer = train_bpe(
            texts.train,
            section.vocabulary_size,
            section.context_tokens,
            padding_side="right",
            ends_with_eos=True,
        )
        model = ConvStemCLIPModel(_config(section, tokenizer)).to(builder.device)
        loss = _train(model, tokenizer, section, train, identity, builder) if train else None
        save_clip(model.eval(), folder)
        tokenizer.save_pretrained(folder)
        figures = _held_out_recall(model, tokenizer, held_out) if held_out else None
        write_about(folder, model, section.training, loss, figures)

    return builder.get_or_build("clip", identity, make)


def draw_captions(captions: list[Captions], mix: Mapping[Any, float]) -> list[str]:
    """Draw a caption per scene with torch's generator: a column by weight, then one of its captions."""
    columns = sorted(mix)
    weights = torch.tensor([mix[column] for column in columns])
    column_indices = torch.multinomial(weights, len(captions), replacement=True).tolist()
    fractions = torch.rand(len(captions)).tolist()
    choices = [scene[columns[index]] for scene, index in zip(captions, column_indices, strict=True)]
    return [texts[int(fraction * len(texts))] for texts, fraction in zip(choices, fractions, strict=True)]


def _config(section: MadeClip, tokenizer: Any) -> ConvStemCLIPConfig:  # noqa: ANN401 - a tokenizer
    shape = {
        "hidden_size": section.width,
        "intermediate_size": MLP_EXPANSION * section.width,
        "num_attention_heads": section.heads,
        "projection_dim": section.projection_dim,
    }
    text = {
        **shape,
        "num_hidden_layers": section.text_layers,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": section.context_tokens,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        **shape,
        "num_hidden_layers": section.vision_layers,
        "image_size": section.image_size,
        "patch_size": 2 ** len(section.stem_channels),
        "stem_channels": section.stem_channels,
        "pooling": section.pooling,
    }
    return ConvStemCLIPConfig(text_config=text, vision_config=vision, projection_dim=section.projection_dim)


def _train(
    model: Any,  # noqa: ANN401 - a CLIPModel
    tokenizer: Any,  # noqa: ANN401
    section: MadeClip,
    scenes: SceneSet,
    identity: dict[str, Any],
    builder: ModelBuilder,
) -> float | None:
    if not section.training.steps:
        return None
    pictures = scenes.pictures

    def loss_at(step: int) -> Tensor:
        rows = batch_rows(len(pictures), section.training.batch_size, builder.seed, step)
        captions = draw_captions([scenes.captions[row] for row in rows.tolist()], section.caption_mix)
        images = image_embeddings(model, pictures[rows].to(builder.device))
        log_scale = model.logit_scale.clamp(max=MAX_LOG_LOGIT_SCALE)
        return clip_loss(images, text_embeddings(model, tokenizer, captions), log_scale.exp())

    return builder.train("clip", model, section.training, identity, loss_at)


@torch.inference_mode()
def _held_out_recall(model: Any, tokenizer: Any, scenes: SceneSet) -> dict[str, float] | None:  # noqa: ANN401
    """Recall@1 between held-out scenes and their short captions, in both directions."""
    if not scenes.scenes:
        return None
    pictures = scenes.pictures.to(model.device)
    texts = [captions[HELD_OUT_COLUMN][0] for captions in scenes.captions]
    images = torch.cat([image_embeddings(model, batch) for batch in pictures.split(HELD_OUT_BATCH)])
    similarities = images @ text_embeddings(model, tokenizer, texts).T  # (N, N)
    labels = torch.arange(len(texts), device=similarities.device)
    return {
        "scenes": len(texts),
        "image_to_text_recall_at_1": float((similarities.argmax(1) == labels).float().mean()),
        "text_to_image_recall_at_1": float((similarities.argmax(0) == labels).float().mean()),
    }
