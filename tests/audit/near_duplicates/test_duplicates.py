"""Planted copies are found, and scenes that only share a layout are not taken for copies (docs/faults.md)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from components.audit.near_duplicates.comparison import Alike
from components.audit.near_duplicates.duplicates import Duplicates, Likes, find_duplicates
from components.audit.near_duplicates.fingerprints import Fingerprint, fingerprint, joined, write_fingerprints
from components.settings.params import Params
from components.sources.scenes.scene import draw_scenes, render
from tests.audit.conftest import jpeg

PLANTED, OTHERS = 100, 300
Row = tuple[Fingerprint, str]  # with its split
Find = Callable[[list[Row], Alike], Duplicates]


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    return [render(scene, 64) for scene in draw_scenes("scenes", "train", PLANTED + OTHERS, 7)]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """Find duplicates among rows that lie in two shards."""
    number = count()

    def find(rows: list[Row], alike: Alike) -> Duplicates:
        folder = tmp_path / str(next(number))
        half = len(rows) // 2
        images = []
        for name, part in (("a", rows[:half]), ("b", rows[half:])):
            (folder / name).mkdir(parents=True)
            write_fingerprints(folder / name, [row for row, _ in part])
            lines = {"key": [row.key for row, _ in part], "split": [split for _, split in part]}
            images.append(pa.table(lines, pa.schema([("key", pa.string()), ("split", pa.string())])))
        found = joined([folder / "a", folder / "b"], ["a", "b"], images)
        return find_duplicates(found, alike, folder / "work", 1)

    return find


def resized(factor: float) -> Callable[[Image.Image], bytes]:
    def change(image: Image.Image) -> bytes:
        size = (round(image.width * factor), round(image.height * factor))
        return jpeg(image.resize(size, Image.Resampling.BICUBIC))

    return change


@pytest.mark.parametrize(
    ("change", "recall"),
    [
        (jpeg, 1.0),
        (lambda image: jpeg(image, quality=75), 0.99),
        (resized(0.5), 0.99),
        (resized(1.5), 0.99),
    ],
)
def test_planted_copies_are_found(
    smoke: Params,
    scenes: list[Image.Image],
    find: Find,
    change: Callable[[Image.Image], bytes],
    recall: float,
) -> None:
    rows = [(fingerprint(jpeg(image), f"train{number}"), "train") for number, image in enumerate(scenes)]
    rows += [
        (fingerprint(change(image), f"test{number}"), "test") for number, image in enumerate(scenes[:PLANTED])
    ]
    found = find(rows, Alike(smoke.audit.near_duplicate_bits, smoke.audit.near_duplicate_difference))
    right = sum(seen == test - len(scenes) for test, seen in found.leaked_tests.items())
    assert right >= recall * PLANTED
    assert len(found.leaked_tests) - right <= 0.001 * PLANTED
    assert len(found.near) <= 0.001 * len(scenes)


def test_equal_bytes_are_found_across_and_within_splits(find: Find) -> None:
    images = [jpeg(Image.new("RGB", (32, 32), (shade, shade, shade))) for shade in (0, 90, 200)]
    rows = [
        (fingerprint(images[image], f"row{number}"), split)
        for number, (image, split) in enumerate(
            [(0, "train"), (1, "train"), (0, "train"), (2, "test"), (0, "test"), (1, "validation")]
        )
    ]
    found = find(rows, Alike(0, 0.0))
    assert found.exact == {2: 0}
    assert found.near == {}
    assert found.leaked == {0: 4, 2: 4}
    assert found.leaked_tests == {4: 0}


def test_equal_bytes_go_before_what_only_looks_the_same(find: Find) -> None:
    picture = Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 100).convert("RGB")
    good, worse = jpeg(picture), jpeg(picture, quality=60)
    splits = [("train", worse), ("train", good), ("train", good), ("test", worse), ("test", good)]
    rows = [(fingerprint(data, f"row{number}"), split) for number, (split, data) in enumerate(splits)]
    found = find(rows, Alike(10, 6.0))
    assert found.exact == {2: 1}
    assert found.near == {1: 0, 4: 3}
    assert found.leaked == {0: 3, 1: 4, 2: 4}
    assert found.leaked_tests == {3: 0, 4: 1}


def test_nothing_is_like_nothing(find: Find) -> None:
    assert find([], Alike(10, 6.0)) == Duplicates({}, {}, {}, {})


def test_likes_are_a_mapping_of_the_rows_that_have_one() -> None:
    import numpy as np

    likes = Likes(np.array([-1, 0, -1, 1]))
    assert dict(likes) == {1: 0, 3: 1}
    assert (2 in likes, 3 in likes, 4 in likes, len(likes)) == (False, True, False, 2)
    assert len(Likes(np.array([], np.int64))) == 0
