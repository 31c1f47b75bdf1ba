"""Read procedural scenes as rows, with captions in English and German."""

from __future__ import annotations

from collections.abc import Iterator

from components.settings.sources import Scenes, SceneTexts
from components.sources.row import ImageScene, Row
from components.sources.scenes import english, german
from components.sources.scenes.drawing import render
from components.sources.scenes.english import described_facts
from components.sources.scenes.space import (
    Scene,
    SceneObject,
    draw_scene,
    draw_scenes,
    scene_facts,
    scene_labels,
)
from components.storage.side_tables import Caption

__all__ = [
    "COLUMN_LANGUAGES",
    "Scene",
    "SceneObject",
    "described_facts",
    "draw_scene",
    "draw_scenes",
    "render",
    "scene_captions",
    "scene_facts",
    "scene_labels",
]

COLUMN_LANGUAGES = {"alt": "en", "short": "en", "dense": "en", "short_de": "de", "dense_de": "de"}


def scene_captions(scene: Scene) -> dict[str, list[str]]:
    """Return all captions of a scene by column; a training image may carry only `alt`."""
    return {
        "alt": [english.alt_text(scene)],
        "short": [english.short_caption(scene)],
        "dense": english.dense_captions(scene),
        "short_de": [german.short_caption(scene)],
        "dense_de": [german.dense_caption(scene)],
    }


def read_scenes(source: Scenes | SceneTexts, seed: int) -> Iterator[Row]:
    """Yield the scenes of a source: first train, then validation, then test.

    Train images carry only the noisy alt text. Images of other splits, and texts without an image, carry all
    captions.
    """
    for split, count in source.counts.model_dump().items():
        for scene in draw_scenes(source.name, split, count, seed):
            key = f"{source.name}_{split}_{scene.number:09d}"
            is_alt_only = isinstance(source, Scenes) and split == "train"
            captions = [
                Caption(key, split, column, COLUMN_LANGUAGES[column], number, text, source.name)
                for column, texts in scene_captions(scene).items()
                if column == "alt" or not is_alt_only
                for number, text in enumerate(texts)
            ]
            image = ImageScene(scene, source.image_size) if isinstance(source, Scenes) else None
            yield Row(key, split, source.name, captions, scene_labels(scene), image)
