"""Rows of images whose captions lie beside them, as `.txt` and `.json`: in a folder, or in a tar."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from components.settings.sources import Members
from components.sources.row import Image, Rejection, Row
from components.sources.texts import Rejected, captions_of, normal_key, rejection, split_of

IMAGE_KINDS = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
TEXT_KINDS = ("txt", "json")
MAX_TEXT_BYTES = 10_000_000


@dataclass(frozen=True)
class Found:
    """One image and what lies beside it, or what lies there without an image."""

    key: str  # behind the source's name it is the row's key
    where: str
    image: Image | Rejected
    texts: dict[str, bytes | Rejected]  # by kind, txt and json


def row_of(source: Members, found: Found) -> Row | Rejection:
    """Return the row of an image, or why it has none."""
    key, split = f"{source.name}_{found.key}", str(source.split or "")
    try:
        if isinstance(found.image, Rejected):
            raise found.image
        key = normal_key(key)
        columns = [one.column for one in source.captions]
        values = _values(source, columns, found)
        if source.split_column:
            split = split_of(_values(source, [source.split_column], found).get(source.split_column))
        captions = captions_of(source.captions, values, key, split, source.name)
    except Rejected as reason:
        return rejection(source.name, key, split, reason, found.where)
    return Row(key, split, source.name, captions, {}, found.image)


def _values(source: Members, columns: Iterable[str], found: Found) -> dict[str, Any]:
    """Return the values of columns; only the files that these name are decoded."""
    values: dict[str, Any] = {}
    fields: dict[str, Any] | None = None
    for column in columns:
        kind, _, field = column.partition(".")
        text = found.texts.get(kind)
        if text is None:
            continue
        if kind == "txt":
            whole = _decoded(text)
            values[column] = whole.split("\n") if source.txt_lines else whole
        else:
            fields = _fields(_decoded(text)) if fields is None else fields
            values[column] = fields.get(field)
    return values


def _decoded(text: bytes | Rejected) -> str:
    if isinstance(text, Rejected):
        raise text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Rejected("bad_utf8") from None


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise Rejected("bad_json") from None
    if not isinstance(fields, dict):
        raise Rejected("bad_json")
    return fields
