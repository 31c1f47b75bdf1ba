"""The first of near images by key stays, whatever the order, the shards or the size of a block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from components.audit.curation import near_images as module
from components.audit.curation.near_images import near_images, near_of_block
from components.audit.curation.score_table import ImageVectors, open_vectors
from components.errors import ConfigurationError, DataError, Stopped
from components.storage.manifest import write_manifest
from components.storage.scores import EMBEDDED_IMAGES, write_image_embeddings

Write = Callable[[dict[str, NDArray[np.float32]]], ImageVectors]


def direction(degrees: float) -> NDArray[np.float32]:
    angle = np.deg2rad(degrees)
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write embeddings by key as two shards of recaption."""

    def write(vectors: dict[str, NDArray[np.float32]]) -> ImageVectors:
        keys = list(vectors)
        for number, part in enumerate((keys[::2], keys[1::2])):
            lines = [{"key": key, "split": "train", "row": row} for row, key in enumerate(part)]
            rows = [torch.from_numpy(vectors[key]) for key in part]
            write_image_embeddings(
                tmp_path / "image_embeddings",
                f"{number:05d}",
                {"clip": "x"},
                pa.Table.from_pylist(lines, EMBEDDED_IMAGES),
                torch.stack(rows) if rows else torch.empty(0, 2),
            )
        write_manifest(tmp_path)
        return open_vectors(tmp_path)

    return write


def found_in(vectors: ImageVectors, keys: list[str], work: Path, degrees: float = 10.5) -> dict[str, str]:
    limit = float(np.cos(np.deg2rad(degrees)))
    near = near_images(keys, vectors, limit, work, "code", lambda _images: None)
    return {key: one.like for key, one in near.items()}


@pytest.mark.parametrize("block", [1, 2, 2048])
def test_of_a_chain_every_second_link_stays(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    vectors = write({"d": direction(90), "c": direction(20), "b": direction(10), "a": direction(0)})
    assert found_in(vectors, ["c", "a", "d", "b"], tmp_path / "work") == {"b": "a"}
    assert found_in(vectors, ["c", "d", "b"], tmp_path / "work") == {"c": "b"}
    assert found_in(vectors, ["c"], tmp_path / "work") == {}
    assert found_in(vectors, [], tmp_path / "work") == {}
    assert not (tmp_path / "work" / "vectors.npy").exists()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.floats(0.5, 1.0))
def test_blocks_find_what_one_by_one_finds(seed: int, block: int, limit: float) -> None:
    draw = np.random.default_rng(seed)
    matrix = draw.normal(size=(30, 3)).astype(np.float16)
    unit = matrix.astype(np.float32) / np.linalg.norm(matrix.astype(np.float32), axis=1, keepdims=True)
    like: dict[int, int] = {}
    for row in range(30):
        firsts = [
            before for before in range(row) if before not in like and unit[before] @ unit[row] >= limit - 1e-6
        ]
        if firsts:
            like[row] = firsts[0]
    kept, found = np.ones(30, bool), {}
    original = module.BLOCK
    module.BLOCK = block
    try:
        for start in range(0, 30, block):
            for line in near_of_block(matrix, kept, start, limit - 1e-6):
                kept[line["place"]] = False
                found[line["place"]] = line["like"]
    finally:
        module.BLOCK = original
    assert found == like


def test_a_killed_run_goes_on_with_the_block_it_was_at(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 2)
    vectors = write({f"k{number}": direction(7.0 * number) for number in range(8)})
    whole = found_in(vectors, [f"k{number}" for number in range(8)], tmp_path / "undisturbed")
    assert whole == {"k1": "k0", "k3": "k2", "k5": "k4", "k7": "k6"}
    starts: list[int] = []
    block = near_of_block

    def killed_at_third(
        matrix: NDArray[np.float16], kept: NDArray[np.bool_], start: int, limit: float
    ) -> list[dict[str, object]]:
        starts.append(start)
        if len(starts) == 3:
            raise Stopped
        return block(matrix, kept, start, limit)

    monkeypatch.setattr(module, "near_of_block", killed_at_third)
    with pytest.raises(Stopped):
        found_in(vectors, [f"k{number}" for number in range(8)], tmp_path / "work")
    assert found_in(vectors, [f"k{number}" for number in range(8)], tmp_path / "work") == whole
    assert starts == [0, 2, 4, 4, 6]


def test_an_image_without_an_embedding_is_named(write: Write, tmp_path: Path) -> None:
    vectors = write({"a": direction(0), "b": direction(50)})
    with pytest.raises(DataError, match=r"no embedding of 1 images \(first z\)"):
        found_in(vectors, ["a", "z"], tmp_path / "work")


def test_no_embeddings_at_all_is_a_matter_of_params(tmp_path: Path) -> None:
    write_manifest(tmp_path)
    with pytest.raises(ConfigurationError, match=r"has no image embeddings.*set recaption\.scores"):
        open_vectors(tmp_path)
