"""Planted copies are found, and scenes that only share a layout are not taken for copies (FAULTS P18)."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.audit.duplicates import find_duplicates, similar_pairs
from components.audit.fingerprints import FINGERPRINTS, difference_hash, fingerprint, thumbnail
from components.settings.params import Params
from components.sources.scenes import draw_scenes, render
from tests.audit.conftest import jpeg

PLANTED, OTHERS = 100, 300


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    return [render(scene, 64) for scene in draw_scenes("scenes", "train", PLANTED + OTHERS, 7)]


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
    smoke: Params, scenes: list[Image.Image], change: Callable[[Image.Image], bytes], recall: float
) -> None:
    rows = [fingerprint(jpeg(image), f"train{number}", "train") for number, image in enumerate(scenes)]
    rows += [
        fingerprint(change(image), f"test{number}", "test") for number, image in enumerate(scenes[:PLANTED])
    ]
    table = pa.Table.from_pylist(rows, FINGERPRINTS)
    limits = smoke.audit
    found = find_duplicates(table, limits.near_duplicate_bits, limits.near_duplicate_difference)
    right = sum(seen == test - len(scenes) for test, seen in found.leaked_tests.items())
    assert right >= recall * PLANTED
    assert len(found.leaked_tests) - right <= 0.001 * PLANTED
    assert len(found.near) <= 0.001 * len(scenes)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(0, 10))
def test_bands_find_every_pair_that_comparing_all_finds(seed: int, bits: int) -> None:
    draw = np.random.default_rng(seed)
    base = draw.integers(0, 2**63, 4, dtype=np.uint64)
    flips = np.uint64(1) << draw.integers(0, 64, (40, 6)).astype(np.uint64)
    hashes = draw.choice(base, 40) ^ np.bitwise_xor.reduce(flips[:, : max(1, bits)], axis=1)
    thumbnails = draw.integers(0, 12, (40, 768)).astype(np.uint8)
    expected = [
        (first, second)
        for first, second in combinations(range(40), 2)
        if int(hashes[first] ^ hashes[second]).bit_count() <= bits
        and np.square(thumbnails[first].astype(int) - thumbnails[second]).mean() ** 0.5 <= 5.0
    ]
    assert list(similar_pairs(hashes, thumbnails, bits, 5.0)) == expected


def test_hash_and_thumbnail_by_hand() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 144, dtype=np.uint8), (144, 1)))
    assert difference_hash(ramp) == 2**64 - 1
    assert difference_hash(ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0
    flat = Image.new("RGB", (40, 20), (10, 20, 30))
    assert thumbnail(flat).reshape(-1, 3).tolist() == [[10, 20, 30]] * 256


def test_equal_bytes_are_found_across_and_within_splits() -> None:
    images = [jpeg(Image.new("RGB", (32, 32), (shade, shade, shade))) for shade in (0, 90, 200)]
    rows = [
        fingerprint(images[image], f"row{number}", split)
        for number, (image, split) in enumerate(
            [(0, "train"), (1, "train"), (0, "train"), (2, "test"), (0, "test"), (1, "validation")]
        )
    ]
    found = find_duplicates(pa.Table.from_pylist(rows, FINGERPRINTS), 0, 0.0)
    assert found.exact == {2: 0}
    assert found.near == {}
    assert found.leaked == {0: 4, 2: 4}
    assert found.leaked_tests == {4: 0}


def test_an_image_that_cannot_be_decoded_is_named() -> None:
    from components.faults import DataFault

    good = jpeg(Image.new("RGB", (32, 32)))
    with pytest.raises(DataFault, match="image broken cannot be decoded"):
        fingerprint(good[: len(good) // 2], "broken", "train")
    stream = BytesIO()
    Image.new("RGB", (32, 32)).save(stream, "PNG")
    with pytest.raises(DataFault, match="image png cannot be decoded"):
        fingerprint(stream.getvalue(), "png", "train")
