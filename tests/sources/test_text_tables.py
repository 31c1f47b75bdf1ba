"""Lists without a header line, and lists packed by gzip."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import ConfigurationError, DataError
from components.settings.sources import CaptionColumn, Folder
from components.sources.rows import ImageUrl, Row
from components.sources.values import INVISIBLE, NONCHARACTER
from tests.sources.reading import COLUMNS, good, read, texts, told, urls

CC3M = {"columns": ["caption", "url"]}
CC12M = {"columns": ["url", "caption"]}


def test_cc3m_and_cc12m_as_they_are_published(tmp_path: Path) -> None:
    (tmp_path / "Train_GCC-training.tsv").write_text(
        'a very typical bus station\thttp://a/1.jpg\nsierra looked stunning in this "top\thttp://a/2.jpg\n'
    )
    (tmp_path / "cc12m.tsv").write_text("https://a/3.jpg\t<PERSON> was the first one\n")
    rows = good(read(urls("Train_GCC-training.tsv", **CC3M), tmp_path))
    rows += good(read(urls("cc12m.tsv", **CC12M), tmp_path))
    assert [(row.captions[0].text, row.image) for row in rows] == [
        ("a very typical bus station", ImageUrl("http://a/1.jpg")),
        ('sierra looked stunning in this "top', ImageUrl("http://a/2.jpg")),
        ("<PERSON> was the first one", ImageUrl("https://a/3.jpg")),
    ]


def test_a_csv_without_header_has_the_width_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('only one\nhttp://a/2,"two, quoted"\n\xff,x,y\n', "latin-1")
    assert told(read(urls("list.csv", **CC12M), tmp_path)) == [
        "wrong_field_count @ list.csv line 1",
        "two, quoted",
        "bad_utf8 @ list.csv line 3",
    ]


@pytest.mark.parametrize(
    ("first", "is_header"),
    [
        ("url\tcaption", True),
        ("URL\tTEXT", True),
        ("\ufeffImage_URL\tsome caption", True),
        ("http://a/1\tcaption", False),
        ("http://a/1\turl", False),
        ("oops\tno address at all, but prose", False),
    ],
)
def test_a_header_line_where_none_was_expected_is_told(tmp_path: Path, first: str, is_header: bool) -> None:
    (tmp_path / "list.tsv").write_text(f"{first}\nhttp://a/2\ttwo\n", "utf-8")
    if not is_header:
        assert len(read(urls("list.tsv", **CC12M), tmp_path)) == 2
        return
    with pytest.raises(ConfigurationError, match="begins with a line of column names .* set columns"):
        read(urls("list.tsv", **CC12M), tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        ("list.tsv", {"columns": ["url", "words"]}, ConfigurationError, "no column caption; it has url, wor"),
        ("list.tsv", {"columns": None}, ConfigurationError, "if that is a row, list the names in columns"),
        ("empty.csv", CC12M, DataError, "is empty"),
        ("blank.tsv", CC12M, DataError, "has no rows; expected rows"),
        ("swapped.tsv", CC12M, DataError, "captions are urls in 2 of the first 2 rows"),
        ("list.parquet", CC12M, DataError, "is text inside"),
    ],
)  # fmt: skip
def test_names_that_do_not_fit_stop(
    tmp_path: Path, name: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    for file, content in {
        "list.tsv": "http://a/1\tone\n", "list.parquet": "http://a/1\tone\n", "empty.csv": "",
        "blank.tsv": "\n\n", "swapped.tsv": "one\thttp://a/1\ntwo\thttp://a/2\n",
    }.items():  # fmt: skip
        (tmp_path / file).write_text(content)
    with pytest.raises(error, match=message):
        read(urls(name, **changes), tmp_path)


def test_columns_name_each_column_once() -> None:
    with pytest.raises(ValueError, match="columns names one twice"):
        urls("list.tsv", columns=["url", "url"])


@pytest.mark.parametrize("name", ["list.tsv.gz", "list.csv.gz"])
def test_a_packed_list_is_whole_or_stops(tmp_path: Path, name: str) -> None:
    separator = "," if ".csv" in name else "\t"
    whole = gzip.compress(
        "".join(f"http://a/{n}{separator}words {n}\n" for n in range(500)).encode(), mtime=0
    )
    path = tmp_path / name
    path.write_bytes(whole)
    rows = read(urls(name, **CC12M), tmp_path)
    assert told(rows) == [f"words {number}" for number in range(500)]
    assert isinstance(rows[7], Row)
    assert rows[7].captions[0].text == "words 7"
    for cut in range(20, len(whole), 37):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="cut or damaged"):
            read(urls(name, **CC12M), tmp_path)
    for flipped in range(20, len(whole), 37):
        path.write_bytes(whole[:flipped] + bytes([whole[flipped] ^ 16]) + whole[flipped + 1 :])
        with pytest.raises(DataError):
            read(urls(name, **CC12M), tmp_path)
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="cut or damaged after 500 lines"):
        read(urls(name, **CC12M), tmp_path)


def test_a_line_that_never_ends_is_not_taken_into_memory(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "list.tsv.gz", "wb") as file:
        file.write(b"caption\nfine\n" + b"\0" * 30_000_000)
    with pytest.raises(DataError, match="line 3 is longer than 10000000 bytes"):
        read(texts("list.tsv.gz"), tmp_path)


@settings(deadline=None)
@given(
    captions=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\t")), min_size=1
    )
)
def test_whatever_people_write_a_row_is_a_row(
    captions: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    lines = [f"http://a/{number}\t{caption}" for number, caption in enumerate(captions)]
    (folder / "list.tsv").write_bytes("\n".join(lines).encode())
    rows = read(urls("list.tsv", **CC12M), folder)
    assert len(rows) == len(captions)
    for row, caption in zip(rows, captions, strict=True):
        words = " ".join(caption.split())
        if isinstance(row, Row):
            assert row.captions[0].text == words
        else:
            expected = "noncharacter" if NONCHARACTER.search(words) else "empty_caption"
            assert row.reason == ("nul_character" if "\0" in words else expected)
            assert row.reason != "empty_caption" or not INVISIBLE.sub("", words).strip()


@pytest.mark.parametrize("character", ["\ufdd0", "\ufdef", "\ufffe", "\uffff"])
def test_what_unicode_keeps_for_programs_is_no_caption(tmp_path: Path, character: str) -> None:
    lines = [f"http://a/0\ta {character}dog", "http://a/1\t\ufdcf\ufdf0 \ufffd"]
    (tmp_path / "list.tsv").write_text("\n".join(lines), "utf-8")
    rejected, kept = read(urls("list.tsv", **CC12M), tmp_path)
    assert isinstance(kept, Row)
    assert not isinstance(rejected, Row)
    assert rejected.reason == "noncharacter"


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
