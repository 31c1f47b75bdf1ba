"""Side tables of scores: what is written is read back, and a damaged one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from components.errors import DataError
from components.storage.atomic import sha256_of
from components.storage.scores import (
    EMBEDDED_IMAGES,
    SCORES,
    read_image_embeddings,
    read_scores,
    write_image_embeddings,
)
from components.storage.side_tables import write_table

ABOUT = {"clip": "abc", "batch_size": 2}


def images(count: int) -> pa.Table:
    lines = [{"key": f"k{row}", "split": "train", "row": row} for row in range(count)]
    return pa.Table.from_pylist(lines, EMBEDDED_IMAGES)


@pytest.mark.parametrize("count", [0, 3])
def test_image_embeddings_come_back_by_key_in_equal_bytes(tmp_path: Path, count: int) -> None:
    vectors = torch.nn.functional.normalize(torch.randn(count, 4), dim=1)
    for name in ("a", "b"):
        write_image_embeddings(tmp_path / name, "00000", ABOUT, images(count), vectors)
    keys, found = read_image_embeddings(tmp_path / "a" / "00000.safetensors")
    assert keys == [f"k{row}" for row in range(count)]
    assert torch.equal(found, vectors.half())
    for end in ("safetensors", "parquet"):
        assert sha256_of(tmp_path / "a" / f"00000.{end}") == sha256_of(tmp_path / "b" / f"00000.{end}")


def test_rows_in_another_order_give_the_same_by_key(tmp_path: Path) -> None:
    vectors = torch.eye(3)
    table = images(3)
    write_image_embeddings(tmp_path, "00000", ABOUT, table.take([2, 0, 1]), vectors)
    keys, found = read_image_embeddings(tmp_path / "00000.safetensors")
    assert {key: int(row.argmax()) for key, row in zip(keys, found, strict=True)} == {
        "k0": 0,
        "k1": 1,
        "k2": 2,
    }


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 0.0])
def test_an_embedding_that_is_none_is_refused(tmp_path: Path, bad: float) -> None:
    vectors = torch.eye(3)
    vectors[1] = bad
    with pytest.raises(DataError, match="1 of 3 embeddings are NaN.*llm2clip forget recaption"):
        write_image_embeddings(tmp_path, "00000", ABOUT, images(3), vectors)


def line(key: str, number: int, **values: Any) -> dict[str, Any]:
    return {"key": key, "column": "alt", "number": number, **values}


def test_a_caption_is_scored_once(tmp_path: Path) -> None:
    path = tmp_path / "00000.parquet"
    write_table(path, pa.Table.from_pylist([line("a", 0, similarity=0.5), line("a", 1)], SCORES))
    assert read_scores(path)["similarity"].to_pylist() == [0.5, None]
    write_table(path, pa.Table.from_pylist([line("a", 0), line("a", 0)], SCORES))
    with pytest.raises(DataError, match="scores a caption twice"):
        read_scores(path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"key": ["a"]}), "has columns key; expected key, column, number"),
        (pa.table({name: ["x"] for name in SCORES.names}), "of the types this"),
    ],
)
def test_another_table_is_refused(tmp_path: Path, table: pa.Table, message: str) -> None:
    write_table(tmp_path / "00000.parquet", table)
    with pytest.raises(DataError, match=message):
        read_scores(tmp_path / "00000.parquet")
