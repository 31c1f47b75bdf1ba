"""Scenes as facts: what can be in one, and how they are drawn at random.

A scene has two or three objects in the four places of a 2x2 grid. The hash of its objects decides which split
may hold it, whatever the source's name and seed: no test scene is ever seen in training, by any model.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "turquoise")
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")
SIZES = ("small", "large")
FILLS = ("filled", "outlined")
PLACES = ("top left", "top right", "bottom left", "bottom right")  # in reading order
BACKGROUNDS = ("white", "black", "grey", "brown")
OBJECTS_PER_SCENE = (2, 3)

SPLIT_BUCKETS = {"test": range(1), "validation": range(1, 2), "train": range(2, 10)}
BUCKETS = 10


@dataclass(frozen=True)
class SceneObject:
    """One object: where it is and what it looks like."""

    place: str
    size: str
    fill: str
    colour: str
    shape: str


@dataclass(frozen=True)
class Scene:
    """One scene; `identity` seeds whatever is random in its drawing and its alt text."""

    name: str  # of the source
    split: str
    number: int
    seed: int
    background: str
    objects: tuple[SceneObject, ...]  # in reading order

    @property
    def identity(self) -> str:
        """Name this draw, and no other."""
        return f"{self.seed}/{self.name}/{self.split}/{self.number}"


def draw_scenes(name: str, split: str, count: int, seed: int) -> Iterator[Scene]:
    """Draw `count` scenes; each is a function of its name, split, number and the seed alone.

    Args:
        name: Of the source; other names give other draws.
        split: train, validation or test; no scene's objects can occur in two of them.
        count: Scenes to draw.
        seed: Of params.
    """
    for number in range(count):
        yield draw_scene(name, split, number, seed)


def draw_scene(name: str, split: str, number: int, seed: int) -> Scene:
    """Draw one scene, by trying until one belongs to the split."""
    draw = random.Random(f"{seed}/{name}/{split}/{number}")  # noqa: S311 - no secret
    while True:
        objects = _draw_objects(draw)
        background = draw.choice(BACKGROUNDS)
        if split_of(objects) == split:
            return Scene(name, split, number, seed, background, objects)


def split_of(objects: tuple[SceneObject, ...]) -> str:
    """Return the one split in which a scene with these objects may be, on any background."""
    facts = sorted(f"{one.place} {one.size} {one.fill} {one.colour} {one.shape}" for one in objects)
    bucket = int.from_bytes(hashlib.sha256("\n".join(facts).encode()).digest()[:8], "big") % BUCKETS
    return next(split for split, buckets in SPLIT_BUCKETS.items() if bucket in buckets)


def scene_labels(scene: Scene) -> dict[str, list[str]]:
    """Return the labels of a scene, by label name."""
    return {
        "object": [f"{one.colour} {one.shape}" for one in scene.objects],
        "background": [scene.background],
    }


def scene_facts(scene: Scene, kind: str) -> set[tuple[str, str, str]]:
    """Return what a perfect caption of a kind says: (object, attribute, value).

    Args:
        scene: The scene.
        kind: `dense`, which names objects by place and tells size, fill, colour, shape and the background; or
            `short`, which names them by their order (`1`, `2`, `3`) and tells size, colour and shape.
    """
    if kind == "short":
        return {
            (str(order), attribute, getattr(one, attribute))
            for order, one in enumerate(scene.objects, start=1)
            for attribute in ("size", "colour", "shape")
        }
    return {("background", "colour", scene.background)} | {
        (one.place, attribute, getattr(one, attribute))
        for one in scene.objects
        for attribute in ("size", "fill", "colour", "shape")
    }


def _draw_objects(draw: random.Random) -> tuple[SceneObject, ...]:
    places = draw.sample(PLACES, draw.choice(OBJECTS_PER_SCENE))
    return tuple(
        SceneObject(place, draw.choice(SIZES), draw.choice(FILLS), draw.choice(COLOURS), draw.choice(SHAPES))
        for place in sorted(places, key=PLACES.index)
    )
