from __future__ import annotations

from hashlib import sha256
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import torch

from components.errors import ConfigurationError, DataError
from components.running.rows import Rows
from components.storage.audited_rows import KeptShard
from components.storage.embeddings import EMBEDDED_CAPTIONS, Embeddings
from components.storage.manifest import Entry
from components.storage.mapped_rows import MappedRows
from components.storage.pixels import Pixels
from components.storage.side_tables import CAPTION_TEXTS
from components.train_clip import examples as module
from components.train_clip.examples import CaptionMix, Examples

WEIGHTS = {"long": 0.5, "alt": 0.5}
SHARDS = [
    [
        ("b", "long", 1, "b long 1"),
        ("b", "alt", 0, "same"),
        ("b", "long", 0, "b long 0"),
        ("a", "alt", 0, "a alt"),
        ("a", "other", 0, "of no interest"),
    ],
    [("0", "other", 0, "has no caption of the mix"), ("c", "alt", 0, "same")],
]
IN_ORDER = [("a", "alt", 0, "a alt"), ("b", "alt", 0, "same"), ("b", "long", 0, "b long 0"),
            ("b", "long", 1, "b long 1"), ("c", "alt", 0, "same")]  # fmt: skip


class Images:
    """Stands for decoded images, of which examples ask no more than their keys."""

    def __init__(self, keys: str) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self) -> pa.ChunkedArray:
        return pa.chunked_array([list(self._keys)])


def images(keys: str) -> Pixels:
    return cast(Pixels, Images(keys))


def shard(lines: list[tuple[str, str, int, str]], rejected: int = 0) -> KeptShard:
    named = [dict(zip(("key", "column", "number", "text"), line, strict=True)) for line in lines]
    table = pa.Table.from_pylist([{**line, "split": "train"} for line in named], CAPTION_TEXTS)
    return KeptShard("00000", Entry("shards/00000.tar", 1, "", 1), table, rejected)


def examples(rows: Rows | None = None, weights: dict[str, float] = WEIGHTS, **more: Any) -> Examples:
    shards = [shard(lines, **more) for lines in SHARDS]
    return Examples(images("ab0c"), shards, weights, rows or Rows(), 8)


def cache(lines: list[tuple[str, str, int, int]]) -> Embeddings:
    table = [
        {"key": key, "split": "train", "column": column, "language": "en", "number": number, "row": row}
        for key, column, number, row in lines
    ]
    return Embeddings(
        {}, MappedRows([np.ones((9, 2), np.float16)]), pa.Table.from_pylist(table, EMBEDDED_CAPTIONS)
    )


def test_captions_stand_by_image_column_and_number() -> None:
    rows = Rows()
    found = examples(rows, rejected=2)
    assert len(found) == 3
    assert found.image_rows.tolist() == [0, 1, 3]  # the third image has no caption of the mix
    assert found.captions.to_pylist() == [{"key": key, "text": text} for key, _, _, text in IN_ORDER]
    assert found.columns == ["alt", "long"]
    assert found.mix.counts.tolist() == [[1, 0], [1, 2], [1, 0]]
    assert rows.figures() == {"rows_in": 8, "rows_out": 3, "rejected": {"no_caption": 1, "not_kept": 4}}


def test_a_column_of_weight_0_alone_makes_no_example() -> None:
    rows = Rows()
    found = examples(rows, {"long": 1.0, "alt": 0.0})
    assert found.image_rows.tolist() == [1]
    assert found.captions["text"].to_pylist() == ["same", "b long 0", "b long 1"]
    assert rows.rejected["no_caption"] == 3


@pytest.mark.parametrize("lines_at_once", [1, 2, 1000])
def test_the_digest_is_of_all_captions_in_order(monkeypatch: pytest.MonkeyPatch, lines_at_once: int) -> None:
    monkeypatch.setattr(module, "DIGEST_LINES", lines_at_once)
    known = "".join(f"{key}\0{column}\0{number}\0{text}\0" for key, column, number, text in IN_ORDER)
    assert examples().digest() == sha256(known.encode()).hexdigest()


def test_embeddings_are_joined_by_key_column_and_number() -> None:
    lines = [("c", "alt", 0, 7), ("b", "long", 1, 3), ("b", "long", 0, 8), ("b", "alt", 0, 7),
             ("a", "alt", 0, 0), ("z", "alt", 0, 5), ("a", "other", 0, 6)]  # fmt: skip
    assert examples().embedding_rows(cache(lines)).tolist() == [0, 7, 8, 3, 7]
    for gone, message in (
        (4, "0 embeddings for the 1 captions alt of a;"),
        (1, "1 embeddings for the 2 .* b;"),
    ):
        with pytest.raises(DataError, match=message):
            examples().embedding_rows(cache(lines[:gone] + lines[gone + 1 :]))
    with pytest.raises(DataError, match="2 embeddings for the 1 captions alt of c;"):
        examples().embedding_rows(cache([*lines, ("c", "alt", 1, 2)]))
    with pytest.raises(DataError, match="0 embeddings for the 1 captions alt of a;"):
        examples().embedding_rows(cache([]))


def test_a_mix_of_other_columns_and_no_row_at_all_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="names nowhere, .*the columns are alt, long, other"):
        examples(weights={"alt": 1.0, "nowhere": 1.0})
    with pytest.raises(DataError, match="no training row is left"):
        Examples(images("a"), [shard([("a", "alt", 0, "x")])], {"alt": 0.0}, Rows(), 8)


@pytest.mark.parametrize("keys", ["abc", "ab0c1", "ba0c"])
def test_images_of_other_rows_are_refused(keys: str) -> None:
    with pytest.raises(DataError, match="decoded images and 4 rows with captions; expected the same keys"):
        Examples(images(keys), [shard(lines) for lines in SHARDS], WEIGHTS, Rows(), 8)


def test_weights_are_renormalised_over_what_a_row_has() -> None:
    torch.manual_seed(0)
    mix = CaptionMix(torch.tensor([[1, 2, 1], [1, 0, 1], [0, 0, 3]]), torch.tensor([0.25, 0.25, 0.5]))
    drawn = torch.stack([mix.draw(torch.tensor([0, 1, 2])) for _ in range(4000)])
    shares = torch.stack([(drawn == number).float().mean(dim=0) for number in range(9)])
    expected = torch.tensor(
        [
            [0.25, 0.125, 0.125, 0.5, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 1 / 3, 2 / 3, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 1 / 3, 1 / 3, 1 / 3],
        ]
    )
    assert torch.allclose(shares.T, expected, atol=0.03)
    assert ((shares.T > 0) == (expected > 0)).all()


def test_a_column_of_weight_zero_is_never_drawn() -> None:
    mix = CaptionMix(torch.tensor([[1, 1, 1]]), torch.tensor([0.0, 1.0, 0.0]))
    assert mix.draw(torch.zeros(500, dtype=torch.long)).unique().tolist() == [1]
