"""Procedural scenes: drawn facts, their picture, their captions in two languages, and back to facts."""

from __future__ import annotations

from components.sources import scene_english, scene_german
from components.sources.scene_drawing import render
from components.sources.scene_english import described_facts
from components.sources.scene_space import (
    Scene,
    SceneObject,
    draw_scene,
    draw_scenes,
    scene_facts,
    scene_labels,
)

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
    """Return all captions of a scene by column; only `alt` may go with an image that is trained on."""
    return {
        "alt": [scene_english.alt_text(scene)],
        "short": [scene_english.short_caption(scene)],
        "dense": scene_english.dense_captions(scene),
        "short_de": [scene_german.short_caption(scene)],
        "dense_de": [scene_german.dense_caption(scene)],
    }
