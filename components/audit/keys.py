"""The keys that go on, and those that do not with their reasons, per shard."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from components.audit.curation import Drop
from components.audit.gates import Images
from components.storage.manifest import Entry
from components.storage.side_tables import write_keys, write_table

DROPPED = pa.schema(
    [
        ("key", pa.string()),
        ("reason", pa.string()),  # leaked, a head's name, similarity, no_similarity or near_image
        ("value", pa.float64()),  # the figure that decided; null for a leak
        ("like", pa.string()),  # the image it is like, of a leak or a near image
    ]
)


def write_shard_keys(folder: Path, shards: list[Entry], images: Images, dropped: dict[int, Drop]) -> None:
    """Write `kept/<shard>.parquet` and `dropped/<shard>.parquet` below a folder.

    Args:
        folder: Where to.
        shards: In the order of the images.
        images: Of all shards.
        dropped: By row number of `images`.
    """
    start = 0
    for entry in shards:
        name, rows = entry.name, range(start, start + int(entry.rows or 0))
        kept = [images.keys[row] for row in rows if row not in dropped]
        lost = [{"key": images.keys[row], **vars(dropped[row])} for row in rows if row in dropped]
        write_keys(folder / "kept" / f"{name}.parquet", kept)
        write_table(folder / "dropped" / f"{name}.parquet", pa.Table.from_pylist(lost, DROPPED))
        start = rows.stop
