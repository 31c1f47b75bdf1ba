"""Write the tables of a shard's living rows: captions, images, and the ledger as of today."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from components.download.ledger import FAILED_TO_RESIZE, SUCCESS, LedgerEntry, read_ledger, write_ledger
from components.download.picture_store import ledger_of
from components.sources.rows import Row
from components.storage.bulk import SHARDS
from components.storage.shards import IMAGES, ROWS, tables_of
from components.storage.side_tables import write_captions, write_table
from components.storage.spill import HashSorter

PLACEHOLDER = "placeholder_suspect"


def write_tables(
    out: Path, folder: Path, rows: Iterable[tuple[Row, int]], placeholders: set[str]
) -> list[LedgerEntry]:
    """Write the tables of one shard and return its living lines, in the order of its ledger.

    Args:
        out: The output folder.
        folder: The stored shard.
        rows: Its living rows, each with its line of the ledger.
        placeholders: sha256 of bytes that stand for no image.
    """
    ledger = read_ledger(ledger_of(folder))
    captions, images, lines = [], [], []
    for row, line in sorted(rows, key=lambda pair: pair[1]):
        entry = as_of_today(ledger[line], row)
        if entry.status == SUCCESS and entry.sha256 in placeholders:
            entry = replace(entry, status=FAILED_TO_RESIZE, error_message=PLACEHOLDER)
        lines.append(entry)
        if entry.status == SUCCESS:
            captions += row.captions
            labels = row.labels
            images.append({"key": row.key, "split": row.split, "sha256": entry.jpeg_sha256, "labels": labels})
    captions_path, images_path = tables_of(out / SHARDS / f"{folder.name}.tar")
    write_captions(captions_path, captions)
    write_table(images_path, pa.Table.from_pylist(images, IMAGES))
    write_ledger(out / ROWS / f"{folder.name}.parquet", lines)
    return lines


def as_of_today(entry: LedgerEntry, row: Row) -> LedgerEntry:
    """Return a line of the ledger with what the list says of its row now."""
    return replace(entry, split=row.split, source=row.source, caption=row.captions[0].text)


def placeholders_in(
    shards: Mapping[Path, Iterable[int]], limit: int, url_sources: set[str], work: Path
) -> set[str]:
    """Return the sha256 of bytes that more urls gave than `limit`: no image, but a notice that it is gone.

    Args:
        shards: The living lines of the ledger of each stored shard.
        limit: Of urls with one body.
        url_sources: Names of the sources of urls.
        work: Folder for temporary files.
    """
    hashes: HashSorter[str] = HashSorter(work)
    for folder, lines in shards.items():
        ledger = read_ledger(ledger_of(folder))
        for line in lines:
            entry = ledger[line]
            if entry.status == SUCCESS and entry.source in url_sources and entry.sha256:
                hashes.add(entry.sha256, entry.sha256)
    groups = groupby(sha256 for _, sha256 in hashes)
    common = {sha256 for sha256, group in groups if sum(1 for _ in group) > limit}
    hashes.discard()
    return common
