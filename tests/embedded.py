"""Which vectors of a cache belong to which captions, for tests that look some up."""

from __future__ import annotations

from collections.abc import Iterable

from components.storage.caption_index import column_lines
from components.storage.embeddings import Embeddings


def rows_of(found: Embeddings, column: str, keys: Iterable[str]) -> list[list[int]]:
    """Return for each key the rows of its captions in a column, by number; none where it has none."""
    lines = column_lines(found.table, column)
    parts = zip(lines.keys.to_pylist(), lines.first.tolist(), lines.counts.tolist(), strict=True)
    by_key = {key: lines.rows[first : first + count].tolist() for key, first, count in parts}
    return [by_key.get(key, []) for key in keys]
