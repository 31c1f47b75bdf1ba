"""Train a small image captioner on labelled scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.base_models.clip import draw_captions
from components.base_models.model_builder import ModelBuilder, write_about
from components.base_models.training_data import SceneSet, read_scene_sets
from components.ml.captioning.small import (
    CELL_STD,
    SmallCaptioner,
    SmallCaptionerConfig,
    attribute_loss,
    caption_ids,
    caption_loss,
    save_captioner,
    write_texts,
)
from components.ml.schedule import batch_rows
from components.ml.text.bpe import train_bpe
from components.settings.base_models import MadeCaptioner
from components.sources.scenes.scene import Scene, scene_facts
from components.sources.scenes.scores import fact_scores
from components.sources.scenes.space import BACKGROUNDS, COLOURS, FILLS, PLACES, SHAPES, SIZES

KINDS = ("short", "dense")
NOTHING = ""  # the attribute's value if nothing is at this place
ATTRIBUTES: dict[tuple[str, str], tuple[str, ...]] = {("background", "colour"): BACKGROUNDS} | {
    (place, attribute): (NOTHING, *values)
    for place in PLACES
    for attribute, values in (("size", SIZES), ("fill", FILLS), ("colour", COLOURS), ("shape", SHAPES))
}


def make_captioner(section: MadeCaptioner, builder: ModelBuilder) -> Path:
    """Train the captioner, or reuse a cached one; return its folder with tokenizer and `about.json`."""
    train, held_out = read_scene_sets(section.scenes, builder)
    identity = {
        "code": builder.code_of("captioner"),
        "captioner": section.model_dump(),
        "scenes": [train.key, held_out.key],
        "cell_std": CELL_STD,
    }

    def make(folder: Path) -> None:
        torch.manual_seed(builder.seed)
        texts = [text for captions in train.captions for kind in KINDS for text in captions[kind]]
        tokenizer = train_bpe(texts, section.vocabulary_size, section.max_tokens)
        model = SmallCaptioner(_config(section, tokenizer)).to(builder.device)
        loss = _train(model, tokenizer, section, train, identity, builder)
        save_captioner(model, tokenizer, folder)
        write_about(folder, model, section.training, loss, _held_out_scores(model, tokenizer, held_out))

    return builder.get_or_build("captioner", identity, make)


def attribute_values(scene: Scene) -> list[int]:
    """Return the index of a scene's value for each of `ATTRIBUTES`."""
    facts = {(place, attribute): value for place, attribute, value in scene_facts(scene, "dense")}
    return [values.index(facts.get(attribute, NOTHING)) for attribute, values in ATTRIBUTES.items()]


def _config(section: MadeCaptioner, tokenizer: Any) -> SmallCaptionerConfig:  # noqa: ANN401 - a tokenizer
    return SmallCaptionerConfig(
        image_size=section.scenes.image_size,
        stem_channels=section.stem_channels,
        layers=section.layers,
        width=section.width,
        heads=section.heads,
        max_tokens=section.max_tokens,
        vocabulary_size=len(tokenizer),
        end_id=tokenizer.eos_token_id,
        kinds=list(KINDS),
        attributes=[len(values) for values in ATTRIBUTES.values()],
    )


def _train(
    model: SmallCaptioner,
    tokenizer: Any,  # noqa: ANN401
    section: MadeCaptioner,
    scenes: SceneSet,
    identity: dict[str, Any],
    builder: ModelBuilder,
) -> float | None:
    pictures = scenes.pictures
    values = torch.tensor([attribute_values(scene) for scene in scenes.scenes])

    def loss_at(step: int) -> Tensor:
        rows = batch_rows(len(pictures), section.training.batch_size, builder.seed, step)
        cells = model.encode(pictures[rows].to(builder.device))
        loss = section.attribute_loss_weight * attribute_loss(model, cells, values[rows].to(builder.device))
        captions = [scenes.captions[row] for row in rows.tolist()]
        for kind in KINDS:
            ids = caption_ids(model, tokenizer, draw_captions(captions, {kind: 1.0}), kind)
            loss = loss + caption_loss(model, cells, ids.to(builder.device))
        return loss

    return builder.train("captioner", model, section.training, identity, loss_at)


def _held_out_scores(model: SmallCaptioner, tokenizer: Any, scenes: SceneSet) -> dict[str, Any] | None:  # noqa: ANN401
    if not scenes.scenes:
        return None
    pictures = scenes.pictures.to(next(model.parameters()).device)
    figures: dict[str, Any] = {"scenes": len(scenes.scenes)}
    for kind in KINDS:
        facts = [scene_facts(scene, kind) for scene in scenes.scenes]
        figures[kind] = fact_scores(write_texts(model, tokenizer, pictures, kind), facts)
    return figures
