"""A JSON object a line, as sets of text pairs are published."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from components.errors import ConfigurationError, DataError
from components.settings.sources import CaptionColumn, Folder
from components.sources.rows import Row
from tests.sources.reading import COLUMNS, good, read, texts, told, urls

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
    with pytest.raises(ConfigurationError, match="no column positive, negative; .* did you mean positve"):
        read(texts("e5.jsonl", captions=PAIR), tmp_path)
    with pytest.raises(ConfigurationError, match="names its columns itself"):
        read(texts("e5.jsonl", captions=PAIR, columns=["query", "positive", "negative"]), tmp_path)
    path.write_text("")
    with pytest.raises(DataError, match="is empty"):
        read(texts("e5.jsonl", captions=PAIR), tmp_path)
    packed = tmp_path / "cut.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"query": "a"}\n' * 9999)[:-20])
    with pytest.raises(DataError, match="is cut or damaged"):
        read(texts("cut.jsonl.gz", captions=PAIR), tmp_path)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "words"),
        ({"pin": None}, "words"),
        ({"pin": ""}, "words"),
        ({"pin": "ABC"}, "bad_sha256"),
        ({"pin": {"sha": "x"}}, "not_text"),
        ({"id": ...}, "bad_key"),
        ({"id": None}, "bad_key"),
        ({"id": " "}, "bad_key"),
        ({"id": ["a"]}, "not_text"),
        ({"part": ...}, "unknown_split"),
        ({"part": None}, "unknown_split"),
        ({"part": {"a": 1}}, "not_text"),
        ({"url": ...}, "no_url"),
        ({"url": None}, "no_url"),
        ({"url": ["http://a/1"]}, "not_text"),
        ({"caption": ...}, "empty_caption"),
        ({"caption": True}, "not_text"),
        ({"caption": [None, {"a": "b"}]}, "not_text"),
    ],
)
def test_a_field_that_is_missing_or_of_another_kind_rejects_its_row_alone(
    tmp_path: Path, fields: dict[str, Any], expected: str
) -> None:
    whole: dict[str, Any] = {
        "id": "1",
        "url": "http://a/1",
        "part": "train",
        "pin": "0" * 64,
        "caption": "words",
    }
    odd = {name: value for name, value in (whole | {"pin": ...} | fields).items() if value is not ...}
    (tmp_path / "list.jsonl").write_text(f"{json.dumps(odd)}\n{json.dumps(whole | {'id': '2'})}\n")
    source = urls("list.jsonl", key_column="id", split=None, split_column="part", sha256_column="pin")
    first, second = told(read(source, tmp_path))
    assert (first.partition(" @")[0], second) == (expected, "words")


def test_an_image_without_a_name_rejects_its_row(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    rows: list[dict[str, Any]] = [
        {"file": "1.jpg"},
        {},
        {"file": None},
        {"file": ["1.jpg"]},
        {"file": "x" * 300},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps({"caption": "words", **one}) for one in rows))
    fields = texts("list.jsonl").model_dump() | {"kind": "folder", "weight": None, "captions": COLUMNS}
    source = Folder(**{**fields, "images": "images", "image_column": "file"})
    assert [one.partition(" @")[0] for one in told(read(source, tmp_path))] == [
        "words", "no_image_name", "no_image_name", "not_text", "unreadable",
    ]  # fmt: skip
