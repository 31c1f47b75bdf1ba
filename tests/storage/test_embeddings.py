"""Embedding shards: round trip, stable bytes, joined by key, and every kind of damage refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from components.faults import DataFault
from components.storage.embeddings import (
    EMBEDDED_CAPTIONS,
    EMBEDDED_PROMPTS,
    PROMPTS,
    read_embeddings,
    write_embeddings,
)
from components.storage.manifest import write_manifest

ABOUT = {"llm": "tuned", "llm_key": "abc", "pooling": "mean", "max_tokens": 64}
LINES = [
    ("a", "train", "short", "en", 0, 0),
    ("a", "train", "dense", "en", 1, 2),
    ("a", "train", "dense", "en", 0, 1),
    ("b", "test", "short", "en", 0, 0),  # the same text as a's
]


def table(lines: list[tuple[Any, ...]], schema: pa.Schema = EMBEDDED_CAPTIONS) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, line, strict=True)) for line in lines], schema=schema)


def vectors(rows: int, first: float = 1.0) -> Tensor:
    return torch.arange(rows * 4).reshape(rows, 4) + first


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards and prompts of one LLM, below a manifest."""
    folder = tmp_path / "tuned"
    write_embeddings(folder, "00000", ABOUT, table(LINES), vectors(3))
    write_embeddings(folder, "00001", ABOUT, table([("c", "train", "short", "en", 0, 0)]), vectors(1, 100.0))
    prompts = table([("object", "red circle", "a {label}", 0)], EMBEDDED_PROMPTS)
    write_embeddings(folder, PROMPTS, ABOUT, prompts, vectors(1))
    write_manifest(tmp_path)
    return folder


def test_round_trip_over_shards(folder: Path) -> None:
    found = read_embeddings(folder)
    assert found.about == ABOUT
    assert found.vectors.dtype == torch.float16
    assert found.vectors.tolist() == [*vectors(3).tolist(), *vectors(1, 100.0).tolist()]
    assert found.rows("short", ["c", "a", "b", "z"]) == [[3], [0], [0], []]
    assert found.rows("dense", ["a", "b"]) == [[1, 2], []]
    assert found.rows("none", ["a"]) == [[]]


def test_chosen_shards_and_prompts(folder: Path) -> None:
    assert read_embeddings(folder, ["00001"]).rows("short", ["c"]) == [[0]]
    prompts = read_embeddings(folder, [PROMPTS])
    assert prompts.table.to_pylist() == [
        {"task": "object", "label": "red circle", "template": "a {label}", "row": 0}
    ]
    with pytest.raises(DataFault, match="wanted are \\['00007'\\]"):
        read_embeddings(folder, ["00007"])


def test_join_is_by_key_whatever_the_order_of_rows(folder: Path) -> None:
    before = read_embeddings(folder)
    write_embeddings(folder, "00000", ABOUT, table(LINES[::-1]), vectors(3))
    write_manifest(folder.parent)
    after = read_embeddings(folder)
    for column in ("short", "dense"):
        assert after.rows(column, "abc") == before.rows(column, "abc")


def test_bytes_depend_on_the_content_alone(folder: Path, tmp_path: Path) -> None:
    shuffled = dict(reversed(ABOUT.items()))
    for number in range(3):
        write_embeddings(tmp_path / str(number), "00000", shuffled, table(LINES), vectors(3))
        for suffix in ("safetensors", "parquet"):
            name = f"00000.{suffix}"
            assert (tmp_path / str(number) / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("suffix", ["safetensors", "parquet"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_shard_is_refused(folder: Path, suffix: str, damage: str) -> None:
    path = folder / f"00001.{suffix}"
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[-2] ^= 1
        path.write_bytes(data)
    with pytest.raises(DataFault):
        read_embeddings(folder)


def test_shards_of_different_models_are_refused(folder: Path) -> None:
    other = {**ABOUT, "llm_key": "def"}
    write_embeddings(folder, "00001", other, table([("c", "train", "short", "en", 0, 0)]), vectors(1))
    write_manifest(folder.parent)
    with pytest.raises(DataFault, match="00001 was made by .*def.* by .*abc"):
        read_embeddings(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6, 0.0], ids=str)
def test_nan_infinity_and_zero_are_refused(tmp_path: Path, value: float) -> None:
    bad = vectors(3).float()
    bad[1] = value
    with pytest.raises(DataFault, match="1 of 3 embeddings are NaN, infinite or zero"):
        write_embeddings(tmp_path, "00000", ABOUT, table(LINES), bad)


def test_lines_and_vectors_must_match(tmp_path: Path) -> None:
    with pytest.raises(DataFault, match="2 embeddings"):
        write_embeddings(tmp_path, "00000", ABOUT, table(LINES), vectors(2))


def test_a_shard_without_captions_holds_none(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "base", "00000", ABOUT, table([]), torch.zeros(0, 4))
    write_manifest(tmp_path)
    assert read_embeddings(tmp_path / "base").vectors.shape == (0, 4)
