"""Captions as columns say what a plain grouping of the same lines says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.running.rows import Rows
from components.storage.layout import Layout
from components.storage.side_tables import Caption, write_captions, write_keys
from components.tune_llm.caption_rows import CaptionRows, CaptionTexts, read_caption_rows

HELD = {
    "b": {"short": ["b0", "b1"], "dense": ["B0"]},
    "a": {"dense": ["A0", "A1"]},
    "\U0001f408": {"short": ["last by code point"]},
    "z\u00e9": {"short": ["before it"], "german": ["g"]},
}


def lines(split: str, captions: dict[str, dict[str, list[str]]]) -> list[Caption]:
    """Return captions with the highest number first: nothing may depend on the order of lines."""
    return [
        Caption(key, split, column, "en", number, text, "people")
        for key, of_row in captions.items()
        for column, texts in of_row.items()
        for number, text in reversed(list(enumerate(texts)))
    ]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Text-only rows, and two shards: b in the first, z in the second, which has no dense caption."""
    layout = Layout(Path(".work"), tmp_path)
    texts, shards = (
        layout.artifact("download") / "texts",
        layout.artifact("recaption") / "captions",
    )
    kept = layout.artifact("audit") / "kept"
    write_captions(texts / "00000.parquet", lines("train", {key: HELD[key] for key in ("\U0001f408", "a")}))
    of_first = {"b": HELD["b"], "gone": {"short": ["one", "two"], "dense": ["three"]}}
    write_captions(
        shards / "00000.parquet", lines("train", of_first) + lines("validation", {"v": {"short": ["V"]}})
    )
    write_captions(shards / "00001.parquet", lines("train", {"z\u00e9": HELD["z\u00e9"]}))
    write_keys(kept / "00000.parquet", ["b", "v"])
    write_keys(kept / "00001.parquet", ["z\u00e9"])
    return layout


def test_rows_are_those_that_were_kept_by_key(layout: Layout) -> None:
    counts = Rows()
    rows = read_caption_rows(layout, "train", counts)
    assert counts.rejected == {"not_kept_by_audit": 1}
    ordered = [HELD[key] for key in sorted(HELD)]
    assert rows.columns == ["dense", "german", "short"]
    for column in [*rows.columns, "absent"]:
        expected = [of_row.get(column, []) for of_row in ordered]
        assert [rows.captions(row, column) for row in range(len(rows))] == expected
        assert rows.counts(column).tolist() == [len(texts) for texts in expected]


def test_splits_are_apart(layout: Layout) -> None:
    rows = read_caption_rows(layout, "validation", Rows())
    assert (len(rows), rows.columns, rows.captions(0, "short")) == (1, ["short"], ["V"])


def test_no_rows_have_no_captions(layout: Layout) -> None:
    rows = read_caption_rows(layout, "test", Rows())
    assert (len(rows), rows.columns, rows.counts("short").tolist()) == (0, [], [])
    assert len(CaptionTexts(rows, ["short"])) == 0


def test_texts_are_numbered_by_row_and_column(layout: Layout) -> None:
    rows = read_caption_rows(layout, "train", Rows())
    columns = ["short", "dense"]
    texts = CaptionTexts(rows, columns)
    expected = [text for key in sorted(HELD) for column in columns for text in HELD[key].get(column, [])]
    assert [texts[place] for place in range(len(texts))] == expected


def test_given_captions_are_held_as_read_ones(layout: Layout) -> None:
    given, read = CaptionRows.of(HELD), read_caption_rows(layout, "train", Rows())
    for column in read.columns:
        assert np.array_equal(given.counts(column), read.counts(column))
        assert [given.captions(row, column) for row in range(4)] == [
            read.captions(row, column) for row in range(4)
        ]
