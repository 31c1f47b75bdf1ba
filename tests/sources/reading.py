"""Sources with every key, and what reading them gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.settings.sources import CaptionColumn, TextTable, UrlList
from components.sources.rows import Rejection, Row, read_rows

COLUMNS = [CaptionColumn(column="caption", name="alt", language="en")]


def texts(path: str, **changes: Any) -> TextTable:
    fields: dict[str, Any] = {
        "kind": "text_table", "name": "told", "path": path, "sha256": None, "columns": None,
        "key_column": None, "split_column": None, "split": "train", "captions": COLUMNS, "limit": None,
    }  # fmt: skip
    return TextTable(**{**fields, **changes})


def urls(path: str, **changes: Any) -> UrlList:
    fields = texts(path).model_dump() | {
        "kind": "url_list", "url_column": "url", "sha256_column": None, "weight": None, "captions": COLUMNS,
    }  # fmt: skip
    return UrlList(**{**fields, **changes})


def columns(*names: str, prefix: str = "") -> list[CaptionColumn]:
    """Name caption columns; in the pipeline they are called in lower case, with _ for other signs."""
    return [
        CaptionColumn(column=prefix + name, name=name.lower().replace(" ", "_"), language="en")
        for name in names
    ]


def read(source: Any, folder: Path) -> list[Row | Rejection]:
    return list(read_rows(source, folder, seed=1))


def told(rows: list[Row | Rejection]) -> list[str]:
    """Say of each row its first caption, or why and where it is none."""
    return [row.captions[0].text if isinstance(row, Row) else f"{row.reason} @ {row.where}" for row in rows]


def good(rows: list[Row | Rejection]) -> list[Row]:
    assert all(isinstance(row, Row) for row in rows), told(rows)
    return [row for row in rows if isinstance(row, Row)]
