"""Audited keys: which rows go on, and the reasons of those that do not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from components.audit.curation.dropped import Dropped
from components.audit.images import Images
from components.storage.side_tables import write_keys, write_table

DROPPED = pa.schema(
    [
        ("key", pa.string()),
        ("reason", pa.string()),  # a head's name, or one of `settings.audit.REASONS`
        ("value", pa.float64()),  # the figure that decided; null for a leak
        ("like", pa.string()),  # the image it is like, of a leak or a near image
    ]
)


def write_shard_keys(folder: Path, images: Images, dropped: Dropped) -> None:
    """Write `kept/<shard>.parquet` and `dropped/<shard>.parquet` below a folder.

    Args:
        folder: Where to.
        images: Of all shards.
        dropped: Of `images`.
    """
    for number, name in enumerate(images.shards):
        rows = images.rows_in(number)
        gone = dropped.rows[rows.start : rows.stop]
        keys = images.keys.chunk(number)
        lost = [
            {"key": keys[row - rows.start].as_py(), **vars(dropped.drop(row))}
            for row in rows
            if gone[row - rows.start]
        ]
        write_keys(folder / "kept" / f"{name}.parquet", keys.filter(pa.array(~gone)))
        write_table(folder / "dropped" / f"{name}.parquet", pa.Table.from_pylist(lost, DROPPED))
