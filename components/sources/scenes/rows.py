"""Rows of procedural scenes. Ground truth never goes with an image that is trained on."""

from __future__ import annotations

from collections.abc import Iterator

from components.settings.sources import Scenes, SceneTexts
from components.sources.row import ImageScene, Row
from components.sources.scenes.scene import COLUMN_LANGUAGES, draw_scenes, scene_captions, scene_labels
from components.storage.side_tables import Caption


def read_scenes(source: Scenes | SceneTexts, seed: int) -> Iterator[Row]:
    """Yield the scenes of a source: first train, then validation, then test.

    Images of train carry the noisy alt text alone; those of other splits, and texts without image, carry all
    captions.
    """
    for split, count in source.counts.model_dump().items():
        for scene in draw_scenes(source.name, split, count, seed):
            key = f"{source.name}_{split}_{scene.number:09d}"
            hidden = isinstance(source, Scenes) and split == "train"
            captions = [
                Caption(key, split, column, COLUMN_LANGUAGES[column], number, text, source.name)
                for column, texts in scene_captions(scene).items()
                if column == "alt" or not hidden
                for number, text in enumerate(texts)
            ]
            image = ImageScene(scene, source.image_size) if isinstance(source, Scenes) else None
            yield Row(key, split, source.name, captions, scene_labels(scene), image)
