"""A JSON object a line, as sets of text pairs are published."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from components.faults import ConfigurationFault, DataFault
from components.settings.sources import CaptionColumn
from components.sources.rows import Row
from tests.sources.reading import good, read, texts, told

PAIR = [
    CaptionColumn(column="query", name="e5_query", language="en"),
    CaptionColumn(column="positive", name="e5_positive", language="en"),
    CaptionColumn(column="negative", name="e5_negative", language="en"),
]


def captions(row: Row) -> list[tuple[str, str]]:
    return [(caption.column, caption.text) for caption in row.captions]


@pytest.mark.parametrize("name", ["e5.jsonl", "e5.jsonl.gz"])
def test_pairs_with_and_without_negatives(tmp_path: Path, name: str) -> None:
    lines = (
        '{"query": "who \\"won\\"?", "positive": ["she\\tdid", "it was her"], "negative": "nobody"}\n'
        '{"query": "wer?", "positive": "sie \u2028 war es"}\r\n\n'
    )
    data = lines.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    one, other = good(read(texts(name, captions=PAIR), tmp_path))
    assert captions(one) == [
        ("e5_query", 'who "won"?'),
        ("e5_positive", "she did"),
        ("e5_positive", "it was her"),
        ("e5_negative", "nobody"),
    ]
    assert captions(other) == [("e5_query", "wer?"), ("e5_positive", "sie war es")]


def test_a_line_that_is_no_object_costs_itself(tmp_path: Path) -> None:
    lines = [
        b'{"query": "a", "positive": "b", "negative": "c"}',
        b'{"query": "cut',
        b"[1, 2]",
        b"\xff",
        b'{"query": {"a": 1}}',
        b'{"query": "\\ud800"}',
        b'{"other": "x"}',
        b"[" * 100_000,
        b'{"query": "last"}',
    ]
    (tmp_path / "e5.jsonl").write_bytes(b"\n".join(lines))
    assert told(read(texts("e5.jsonl", captions=PAIR), tmp_path)) == [
        "a",
        "bad_json @ e5.jsonl line 2",
        "bad_json @ e5.jsonl line 3",
        "bad_utf8 @ e5.jsonl line 4",
        "not_text @ e5.jsonl line 5",
        "lone_surrogate @ e5.jsonl line 6",
        "empty_caption @ e5.jsonl line 7",
        "bad_json @ e5.jsonl line 8",
        "last",
    ]


def test_a_file_that_cannot_be_meant_stops(tmp_path: Path) -> None:
    path = tmp_path / "e5.jsonl"
    path.write_text('{"query": "a", "positve": "b"}\n')
    with pytest.raises(ConfigurationFault, match="no column positive; .* did you mean positve"):
        read(texts("e5.jsonl", captions=PAIR), tmp_path)
    with pytest.raises(ConfigurationFault, match="names its columns itself"):
        read(texts("e5.jsonl", captions=PAIR, columns=["query", "positive", "negative"]), tmp_path)
    path.write_text("")
    with pytest.raises(DataFault, match="is empty"):
        read(texts("e5.jsonl", captions=PAIR), tmp_path)
    packed = tmp_path / "cut.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"query": "a"}\n' * 9999)[:-20])
    with pytest.raises(DataFault, match="is cut or damaged"):
        read(texts("cut.jsonl.gz", captions=PAIR), tmp_path)
