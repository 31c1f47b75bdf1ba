"""Procedural scenes: drawn facts, their picture, their captions in two languages, and back to facts."""

from __future__ import annotations

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
        "alt": [english.alt_text(scene)],
        "short": [english.short_caption(scene)],
        "dense": english.dense_captions(scene),
        "short_de": [german.short_caption(scene)],
        "dense_de": [german.dense_caption(scene)],
    }
