"""Training data of the models trained here: texts of any source, and rendered scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from components.base_models.model_builder import ModelBuilder
from components.errors import DataError
from components.ml.vision.pixels import square_of
from components.settings.sources import Scenes, TextSource
from components.sources.rows import Rejection, read_rows
from components.sources.scenes.scene import Scene, draw_scenes, render, scene_captions
from components.storage.atomic import content_key

Captions = dict[str, list[str]]  # by column


@dataclass(frozen=True)
class TrainingTexts:
    """Captions of the train split, and of the validation split for measuring.

    Attributes:
        train: Train captions, row after row.
        held_out: Validation captions, row after row.
        row_sizes: Number of captions in `train` of each row.
    """

    train: list[str]
    held_out: list[str]
    row_sizes: list[int]

    @property
    def key(self) -> str:
        """Hash of all captions."""
        return content_key([self.train, self.held_out, self.row_sizes])


@dataclass(frozen=True)
class SceneSet:
    """Scenes of one split; images are rendered on first use."""

    scenes: list[Scene]
    captions: list[Captions]
    size: int  # pixels

    @cached_property
    def key(self) -> str:
        """Hash of the scenes and their captions."""
        return content_key([[scene.identity for scene in self.scenes], self.captions])

    @cached_property
    def pictures(self) -> Tensor:
        """All scenes rendered: uint8 (N, 3, size, size)."""
        squares = [square_of(render(scene, self.size), self.size) for scene in self.scenes]
        return torch.stack(squares) if squares else torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)


def read_texts(sources: Sequence[TextSource], builder: ModelBuilder) -> TrainingTexts:
    """Read the captions of train and validation rows; skip rows of test.

    Raises:
        DataError: there is no train caption.
    """
    texts = TrainingTexts([], [], [])
    for source in sources:
        for row in read_rows(source, builder.inputs, builder.seed):
            if row.split == "test":
                continue
            if isinstance(row, Rejection):
                builder.rows.reject(row.reason, first=row.described())
                continue
            builder.rows.accept()
            target = texts.train if row.split == "train" else texts.held_out
            target.extend(caption.text for caption in row.captions)
            if row.split == "train":
                texts.row_sizes.append(len(row.captions))
    if not texts.train:
        raise DataError(
            f"the texts {', '.join(source.name for source in sources)} hold no train caption; "
            "expected some to train a tokenizer; add a source with train rows"
        )
    return texts


def read_scene_sets(source: Scenes, builder: ModelBuilder) -> tuple[SceneSet, SceneSet]:
    """Return the scenes of the train and of the validation split."""
    counts = source.counts.model_dump()
    train, held_out = (
        _scene_set(source, split, counts[split], builder.seed) for split in ("train", "validation")
    )
    builder.rows.accept(len(train.scenes) + len(held_out.scenes))
    return train, held_out


@lru_cache(maxsize=2)  # train and validation: the next model may use the same scenes
def _scene_set(source: Scenes, split: str, count: int, seed: int) -> SceneSet:
    scenes = list(draw_scenes(source.name, split, count, seed))
    return SceneSet(scenes, [scene_captions(scene) for scene in scenes], source.image_size)
