"""Values of any input as keys and captions."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.sources.rows import Rejection, Row
from tests.sources.reading import good, read, texts, told


@pytest.mark.parametrize("key", ["0", "row_7", "a-b_c", "k" * 128, "a_b_c_1-0123456789abcdef", " 7 "])
def test_what_is_a_key_already_stays_one(tmp_path: Path, key: str) -> None:
    (tmp_path / "list.tsv").write_text(f"id\tcaption\n{key}\tx\n", "utf-8")
    assert [row.key for row in good(read(texts("list.tsv", key_column="id"), tmp_path))] == [key.strip()]


def test_keys_that_differ_before_they_are_cleaned_differ_afterwards(tmp_path: Path) -> None:
    names = [
        "猫",
        "狗",
        "IMG (1)",
        "IMG [1]",
        "aB",
        "Ab",
        "ab",
        "A.B",
        "caf\u00e9",
        "cafe\u0301",
        "K",
        "\u212a",
        "k",
    ]
    (tmp_path / "list.tsv").write_text("id\tcaption\n" + "".join(f"{one}\tx\n" for one in names), "utf-8")
    keys = [row.key for row in good(read(texts("list.tsv", key_column="id"), tmp_path))]
    assert len(set(keys)) == len(names)
    again = "id\tcaption\n" + "".join(f"{key}\tx\n" for key in reversed(keys))  # as a ledger has them
    (tmp_path / "list.tsv").write_text(again, "utf-8")
    assert [row.key for row in good(read(texts("list.tsv", key_column="id"), tmp_path))] == keys[::-1]


MICROSECONDS = pa.timestamp("us")
SOON = 1_000_000
NEVER = 2**62  # in the year 148,000


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        (pa.array([NEVER, SOON], MICROSECONDS), ["not_text", "not_text"]),
        (pa.array([[NEVER]], pa.list_(MICROSECONDS)), ["not_text"]),
        (pa.array([SOON], pa.timestamp("us", tz="Mars/Olympus")), ["not_text"]),
        (pa.array([SOON], pa.timestamp("us", tz="+25:99")), ["not_text"]),
        (pa.array([2**30], pa.date32()), ["not_text"]),
        (pa.array([datetime.date(2026, 1, 1)]), ["not_text"]),
        (pa.array([SOON], pa.time64("us")), ["not_text"]),
        (pa.array([NEVER, 1], pa.duration("s")), ["not_text", "not_text"]),
        (pa.array([True]), ["not_text"]),
        (pa.array([[("k", "v")], []], pa.map_(pa.string(), pa.string())), ["not_text", "not_text"]),
        (pa.array([{"a": "x"}]), ["not_text"]),
        (pa.array([[{"a": "x"}]]), ["not_text"]),
        (pa.array([b"0" * 16], pa.binary(16)).cast(pa.uuid()), ["not_text"]),
        (pa.array([7, 8]), ["7", "8"]),
        (pa.array([Decimal("1.50")]), ["1.50"]),
        (pa.array([1.5], pa.float16()), ["1.5"]),
        (pa.array([["a", "b"]], pa.large_list(pa.string())), ["a"]),
        (pa.array([["a", "b"]], pa.list_view(pa.string())), ["a"]),
        (pa.array([["a", "b"]], pa.list_(pa.string(), 2)), ["a"]),
        (pa.array(["a", None, "a"]).dictionary_encode(), ["a", "empty_caption", "a"]),
        (pa.array(["a"], pa.string_view()), ["a"]),
        (pa.array(['["a", "b"]']).cast(pa.json_()), ["a"]),
        (pa.nulls(1), ["empty_caption"]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_every_type_of_parquet_is_text_or_rejected(tmp_path: Path, values: pa.Array, rows: list[str]) -> None:
    pq.write_table(pa.table({"caption": values}), tmp_path / "list.parquet")
    assert [one.partition(" @")[0] for one in told(read(texts("list.parquet"), tmp_path))] == rows


def test_a_cell_that_cannot_be_read_costs_its_own_row(tmp_path: Path) -> None:
    table = {"caption": ["a", "b", "c"], "day": pa.array([SOON, NEVER, SOON], MICROSECONDS)}
    pq.write_table(pa.table(table), tmp_path / "list.parquet")
    rows = read(texts("list.parquet", key_column="day"), tmp_path)
    assert told(rows) == ["a", "not_text @ list.parquet row 1", "c"]


LISTS = {
    "['a cat', 'a dog']": ["a cat", "a dog"],
    '["a cat", "a dog"]': ["a cat", "a dog"],
    "['a cat', \"a dog's\", None, nan]": ["a cat", "a dog's"],
    '["caf\\u00e9 \\ud83d\\ude00", null, "a\\/b"]': ["café 😀", "a/b"],
    "['a\\ncat' 'a dog']": ["a cat", "a dog"],
    "[u'a cat', np.str_('a dog')]": ["a cat", "a dog"],
    " ['a cat'] ": ["a cat"],
    "['', 'a cat']": ["a cat"],
    "[12]": ["[12]"],
    "['a', 3]": ["['a', 3]"],
    "[]": [],
    "[None]": [],
    "[null, NaN]": [],
    "[laughs] a cat": ["[laughs] a cat"],
    "['a' 'b', 'c']": ["['a' 'b', 'c']"],
    "[['a cat']]": ["[['a cat']]"],
    "['a cat', open('x')]": ["['a cat', open('x')]"],
    "('a cat', 'a dog')": ["('a cat', 'a dog')"],
    "[" * 9999 + "]" * 9999: ["[" * 9999 + "]" * 9999],
}


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.parquet", "list.jsonl"])
def test_a_list_of_strings_that_is_written_as_text_is_a_list(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "list.parquet":
        pq.write_table(pa.table({"caption": list(LISTS)}), path)
    elif name == "list.jsonl":
        path.write_text("".join(json.dumps({"caption": one}) + "\n" for one in LISTS), "utf-8")
    elif name == "list.csv":
        lines = ['"' + one.replace('"', '""') + '"' for one in LISTS]
        path.write_text("\n".join(["caption", *lines]), "utf-8")
    else:
        path.write_text("\n".join(["caption", *LISTS]), "utf-8")
    rows = read(texts(name), tmp_path)
    found = [[caption.text for caption in row.captions] if isinstance(row, Row) else [] for row in rows]
    assert found == list(LISTS.values())
    reasons = {row.reason for row in rows if isinstance(row, Rejection)}
    assert reasons == {"empty_caption"}  # a list without a string holds no caption, as parquet's []
    assert [caption.number for caption in good(rows[:1])[0].captions] == [0, 1]
