"""The captions that tuning sees: text-only rows, and rows with images that the audit kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components.running.rows import Rows
from components.storage.atomic import content_key
from components.storage.layout import Layout
from components.storage.manifest import folder_key
from components.storage.side_tables import Caption, read_captions, read_keys


@dataclass(frozen=True)
class CaptionRow:
    """One row's captions by column, each column's in the order of their numbers."""

    key: str
    captions: dict[str, list[str]]


def read_caption_rows(layout: Layout, split: str, rows: Rows) -> list[CaptionRow]:
    """Read the rows of one split, by key; `rows` counts those that the audit dropped."""
    grouped: dict[str, dict[str, list[tuple[int, str]]]] = defaultdict(lambda: defaultdict(list))
    dropped = set()
    for caption, is_kept in _captions(layout):
        if caption.split != split:
            continue
        if is_kept:
            grouped[caption.key][caption.column].append((caption.number, caption.text))
        else:
            dropped.add(caption.key)
    rows.reject("not_kept_by_audit", len(dropped))
    return [
        CaptionRow(
            key,
            {column: [text for _, text in sorted(numbered)] for column, numbered in sorted(columns.items())},
        )
        for key, columns in sorted(grouped.items())
    ]


def data_key(layout: Layout) -> str:
    """Return one hash for everything that `read_caption_rows` reads; verifies it."""
    return content_key(
        [
            folder_key(layout.artifact("download"), "texts/"),
            folder_key(layout.artifact("recaption"), "captions/"),
            folder_key(layout.artifact("audit"), "kept/"),
        ]
    )


def _captions(layout: Layout) -> Iterator[tuple[Caption, bool]]:
    for path in _tables(layout.artifact("download") / "texts"):
        yield from ((caption, True) for caption in read_captions(path))
    for path in _tables(layout.artifact("recaption") / "captions"):
        kept = read_keys(layout.artifact("audit") / "kept" / path.name)
        yield from ((caption, caption.key in kept) for caption in read_captions(path))


def _tables(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))
