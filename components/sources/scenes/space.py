"""Facts of procedural scenes: the possible values, and their random draw.

A scene has two or three objects in the four places of a 2x2 grid. The hash of its objects decides its split,
independent of the source's name and the seed, so no model ever sees a test scene in training.
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
    """One object of a scene: its place and its look."""

    place: str
    size: str
    fill: str
    colour: str
    shape: str


@dataclass(frozen=True)
class Scene:
    """One scene; `identity` seeds the randomness of its image and its alt text."""

    name: str  # the source's name
    split: str
    number: int
    seed: int
    background: str
    objects: tuple[SceneObject, ...]  # in reading order

    @property
    def identity(self) -> str:
        """A name that is unique to this draw."""
        return f"{self.seed}/{self.name}/{self.split}/{self.number}"


def draw_scenes(name: str, split: str, count: int, seed: int) -> Iterator[Scene]:
    """Draw `count` scenes; each depends only on its name, split, number and the seed.

    Args:
        name: The source's name; other names give other draws.
        split: train, validation or test; a set of objects occurs in only one of them.
        count: Number of scenes to draw.
        seed: From params.
    """
    for number in range(count):
        yield draw_scene(name, split, number, seed)


def draw_scene(name: str, split: str, number: int, seed: int) -> Scene:
    """Draw scenes until one belongs to the split, and return it."""
    draw = random.Random(f"{seed}/{name}/{split}/{number}")  # noqa: S311 - no secret
    while True:
        objects = _draw_objects(draw)
        background = draw.choice(BACKGROUNDS)
        if split_of(objects) == split:
            return Scene(name, split, number, seed, background, objects)


def split_of(objects: tuple[SceneObject, ...]) -> str:
    """Return the split of a scene with these objects, on any background."""
    facts = sorted(f"{item.place} {item.size} {item.fill} {item.colour} {item.shape}" for item in objects)
    bucket = int.from_bytes(hashlib.sha256("\n".join(facts).encode()).digest()[:8], "big") % BUCKETS
    return next(split for split, buckets in SPLIT_BUCKETS.items() if bucket in buckets)


def scene_labels(scene: Scene) -> dict[str, list[str]]:
    """Return the labels of a scene by label name."""
    return {
        "object": [f"{item.colour} {item.shape}" for item in scene.objects],
        "background": [scene.background],
    }


def scene_facts(scene: Scene, kind: str) -> set[tuple[str, str, str]]:
    """Return the facts that a perfect caption of a kind states: (object, attribute, value).

    Args:
        scene: The scene.
        kind: `dense`, which names objects by place and states size, fill, colour, shape and the background;
            or
            `short`, which names objects by order (`1`, `2`, `3`) and states size, colour and shape.
    """
    if kind == "short":
        return {
            (str(order), attribute, getattr(item, attribute))
            for order, item in enumerate(scene.objects, start=1)
            for attribute in ("size", "colour", "shape")
        }
    return {("background", "colour", scene.background)} | {
        (item.place, attribute, getattr(item, attribute))
        for item in scene.objects
        for attribute in ("size", "fill", "colour", "shape")
    }


def _draw_objects(draw: random.Random) -> tuple[SceneObject, ...]:
    places = draw.sample(PLACES, draw.choice(OBJECTS_PER_SCENE))
    return tuple(
        SceneObject(place, draw.choice(SIZES), draw.choice(FILLS), draw.choice(COLOURS), draw.choice(SHAPES))
        for place in sorted(places, key=PLACES.index)
    )
