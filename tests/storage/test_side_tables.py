from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import DataError
from components.storage.side_tables import (
    Caption,
    read_captions,
    read_keys,
    text_key,
    write_captions,
    write_keys,
)

CAPTIONS = [
    Caption("k1", "train", "alt", "en", 0, "NA", "x"),
    Caption("k2", "test", "short_de", "de", 1, "ü😀", "y"),
]


def test_round_trip(tmp_path: Path) -> None:
    write_captions(tmp_path / "c.parquet", CAPTIONS)
    write_keys(tmp_path / "k.parquet", ["k1", "k2"])
    assert read_captions(tmp_path / "c.parquet") == CAPTIONS
    assert read_keys(tmp_path / "k.parquet") == {"k1", "k2"}


def test_missing_damaged_and_other_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    with pytest.raises(DataError):
        read_captions(path)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(DataError):
        read_captions(path)
    write_keys(path, ["k1"])
    with pytest.raises(DataError):
        read_captions(path)


def test_text_key_is_that_of_the_composed_text() -> None:
    assert text_key("u\u0308") == text_key("ü") != text_key("u")
