"""Embedding shards: round trip, stable bytes, joined by key, and every kind of damage refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from components.errors import DataError
from components.storage.embeddings import (
    EMBEDDED_CAPTIONS,
    EMBEDDED_PROMPTS,
    PROMPTS,
    read_embeddings,
    read_prompts,
    write_embeddings,
)
from components.storage.manifest import write_manifest
from tests.embedded import rows_of

ABOUT = {"llm": "tuned", "llm_key": "abc", "pooling": "mean", "max_tokens": 64}
SHORT = [
    ("a", "train", "short", "en", 0, 0),
    ("b", "test", "short", "en", 0, 0),  # the same text as a's
]
MORE_SHORT = [("c", "train", "short", "en", 0, 0)]
DENSE = [
    ("a", "train", "dense", "en", 1, 1),
    ("a", "train", "dense", "en", 0, 0),
]
COLUMNS = ["short", "dense"]


def table(lines: list[tuple[Any, ...]], schema: pa.Schema = EMBEDDED_CAPTIONS) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, line, strict=True)) for line in lines], schema=schema)


def vectors(rows: int, first: float = 1.0) -> Tensor:
    return torch.arange(rows * 4).reshape(rows, 4) + first


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of one column, one of another, and prompts, of one LLM, below a manifest."""
    folder = tmp_path / "tuned"
    write_embeddings(folder / "short", "00000", ABOUT, table(SHORT), vectors(1))
    write_embeddings(folder / "short", "00001", ABOUT, table(MORE_SHORT), vectors(1, 100.0))
    write_embeddings(folder / "dense", "00000", ABOUT, table(DENSE), vectors(2, 50.0))
    prompts = table([("object", "red circle", "a {label}", 0)], EMBEDDED_PROMPTS)
    write_embeddings(folder, PROMPTS, ABOUT, prompts, vectors(1))
    write_manifest(tmp_path)
    return folder


def test_round_trip_over_shards(folder: Path) -> None:
    found = read_embeddings(folder, COLUMNS, Path(".work"))
    assert found.about == ABOUT
    assert found.vectors.whole().dtype == torch.float16
    expected = [*vectors(2, 50.0).tolist(), *vectors(1).tolist(), *vectors(1, 100.0).tolist()]
    assert found.vectors.whole().tolist() == expected
    assert rows_of(found, "short", ["c", "a", "b", "z"]) == [[3], [2], [2], []]
    assert rows_of(found, "dense", ["a", "b"]) == [[0, 1], []]
    assert rows_of(found, "none", ["a"]) == [[]]


def test_chosen_columns_and_prompts(folder: Path) -> None:
    assert rows_of(read_embeddings(folder, ["dense"], Path(".work")), "short", ["c"]) == [[]]
    prompts = read_prompts(folder, Path(".work"))
    assert prompts.table.to_pylist() == [
        {"task": "object", "label": "red circle", "template": "a {label}", "row": 0}
    ]
    with pytest.raises(DataError, match="no embeddings of column german, but of dense, short"):
        read_embeddings(folder, ["short", "german"], Path(".work"))


def test_absent_prompts_are_named(folder: Path) -> None:
    for path in folder.glob("prompts.*"):
        path.unlink()
    write_manifest(folder.parent)
    with pytest.raises(DataError, match="no embeddings of prompts"):
        read_prompts(folder, Path(".work"))


def test_join_is_by_key_whatever_the_order_of_rows(folder: Path) -> None:
    before = read_embeddings(folder, COLUMNS, Path(".work"))
    write_embeddings(folder / "dense", "00000", ABOUT, table(DENSE[::-1]), vectors(2, 50.0))
    write_manifest(folder.parent)
    after = read_embeddings(folder, COLUMNS, Path(".work"))
    for column in COLUMNS:
        assert rows_of(after, column, "abc") == rows_of(before, column, "abc")


def test_bytes_depend_on_the_content_alone(folder: Path, tmp_path: Path) -> None:
    shuffled = dict(reversed(ABOUT.items()))
    for number in range(3):
        write_embeddings(tmp_path / str(number), "00000", shuffled, table(DENSE), vectors(2, 50.0))
        for suffix in ("safetensors", "parquet"):
            name = f"00000.{suffix}"
            assert (tmp_path / str(number) / name).read_bytes() == (folder / "dense" / name).read_bytes()


@pytest.mark.parametrize("suffix", ["safetensors", "parquet"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_shard_is_refused(folder: Path, suffix: str, damage: str) -> None:
    path = folder / "short" / f"00001.{suffix}"
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[-2] ^= 1
        path.write_bytes(data)
    with pytest.raises(DataError):
        read_embeddings(folder, COLUMNS, Path(".work"))
    assert rows_of(read_embeddings(folder, ["dense"], Path(".work")), "dense", ["a"]) == [[0, 1]]


def test_shards_of_different_models_are_refused(folder: Path) -> None:
    other = {**ABOUT, "llm_key": "def"}
    write_embeddings(folder / "short", "00001", other, table(MORE_SHORT), vectors(1))
    write_manifest(folder.parent)
    with pytest.raises(DataError, match="00001.* was made by .*def.* by .*abc"):
        read_embeddings(folder, COLUMNS, Path(".work"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6, 0.0], ids=str)
def test_nan_infinity_and_zero_are_refused(tmp_path: Path, value: float) -> None:
    bad = vectors(2).float()
    bad[1] = value
    with pytest.raises(DataError, match="1 of 2 embeddings are NaN, infinite or zero"):
        write_embeddings(tmp_path, "00000", ABOUT, table(DENSE), bad)


def test_lines_and_vectors_must_match(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 embeddings"):
        write_embeddings(tmp_path, "00000", ABOUT, table(DENSE), vectors(3))


def test_a_shard_without_captions_holds_none(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "base" / "short", "00000", ABOUT, table([]), torch.zeros(0, 4))
    write_manifest(tmp_path)
    assert read_embeddings(tmp_path / "base", ["short"], Path(".work")).vectors.shape == (0, 4)
