"""Draw a procedural scene as an RGB image."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw

from components.sources.scenes.space import PLACES, Scene, SceneObject

OVERSAMPLING = 4  # factor to draw larger before shrinking, for smooth edges
RADIUS = {"large": 0.38, "small": 0.2}  # share of a grid cell's side
STROKE = 0.3  # share of the radius
SHIFT = 0.06  # share of a grid cell's side
TURN_DEGREES = 8.0
SCALE = 0.08
SHADE = 10  # of 255, per channel

COLOUR_RGB = {
    "red": (215, 25, 30),
    "green": (35, 150, 45),
    "blue": (30, 60, 220),
    "yellow": (245, 225, 35),
    "orange": (245, 130, 15),
    "purple": (125, 35, 165),
    "pink": (250, 150, 200),
    "turquoise": (45, 205, 205),
}
BACKGROUND_RGB = {
    "white": (245, 245, 245),
    "black": (12, 12, 12),
    "grey": (130, 130, 130),
    "brown": (95, 65, 40),
}

Point = tuple[float, float]


def render(scene: Scene, size: int) -> Image.Image:
    """Draw a scene as an RGB image of `size` x `size` pixels, with a little jitter seeded by its identity."""
    draw = random.Random(f"{scene.identity}/drawing")  # noqa: S311 - no secret
    side = size * OVERSAMPLING
    image = Image.new("RGB", (side, side), _shade(BACKGROUND_RGB[scene.background], draw))
    pen = ImageDraw.Draw(image)
    for item in scene.objects:
        _draw_object(pen, item, side / 2, draw)
    return image.resize((size, size), Image.Resampling.BOX)


def _draw_object(pen: ImageDraw.ImageDraw, item: SceneObject, cell_side: float, draw: random.Random) -> None:
    row, column = divmod(PLACES.index(item.place), 2)
    radius = RADIUS[item.size] * cell_side * (1 + draw.uniform(-SCALE, SCALE))
    centre_x = (column + 0.5 + draw.uniform(-SHIFT, SHIFT)) * cell_side
    centre_y = (row + 0.5 + draw.uniform(-SHIFT, SHIFT)) * cell_side
    turn = math.radians(draw.uniform(-TURN_DEGREES, TURN_DEGREES))
    colour = _shade(COLOUR_RGB[item.colour], draw)
    outline = [
        (
            centre_x + radius * (x * math.cos(turn) - y * math.sin(turn)),
            centre_y + radius * (x * math.sin(turn) + y * math.cos(turn)),
        )
        for x, y in _outline(item.shape)
    ]
    if item.fill == "filled":
        pen.polygon(outline, fill=colour)
    else:
        pen.line([*outline, *outline[:2]], fill=colour, width=round(STROKE * radius), joint="curve")


def _outline(shape: str) -> list[Point]:
    """Return the corners of a shape of radius 1 around the origin, y downwards."""
    if shape == "circle":
        return _polygon([0.9] * 40)
    if shape == "square":
        return [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
    if shape == "triangle":
        return [(0.0, -0.9), (0.95, 0.8), (-0.95, 0.8)]
    if shape == "diamond":
        return [(0.0, -1.05), (0.65, 0.0), (0.0, 1.05), (-0.65, 0.0)]
    if shape == "star":
        return _polygon([1.05, 0.45] * 5)
    arm, end = 0.32, 0.95
    return [
        (sign_x * x, sign_y * y)
        for sign_x, sign_y, corners in (
            (1, -1, [(arm, end), (arm, arm), (end, arm)]),
            (1, 1, [(end, arm), (arm, arm), (arm, end)]),
            (-1, 1, [(arm, end), (arm, arm), (end, arm)]),
            (-1, -1, [(end, arm), (arm, arm), (arm, end)]),
        )
        for x, y in corners
    ]


def _polygon(radii: list[float]) -> list[Point]:
    """Return corners at equal angles, starting at the top."""
    step = 2 * math.pi / len(radii)
    return [(radius * math.sin(i * step), -radius * math.cos(i * step)) for i, radius in enumerate(radii)]


def _shade(rgb: tuple[int, int, int], draw: random.Random) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, channel + draw.randint(-SHADE, SHADE))) for channel in rgb)
    return red, green, blue
