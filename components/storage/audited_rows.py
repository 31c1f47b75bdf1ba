"""Read the rows that passed the audit, and its verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from components.errors import GateError
from components.storage.atomic import read_json
from components.storage.layout import Layout
from components.storage.manifest import Entry, read_manifest
from components.storage.side_tables import CAPTIONS, Caption, captions_in, key_column, read_table


@dataclass(frozen=True)
class KeptShard:
    """The rows of one shard and one split that the audit kept.

    Attributes:
        name: `00000`.
        entry: The tar's entry in the manifest of `artifacts/download`.
        table: The captions (`CAPTIONS`, or fewer columns of it); a row's captions are in file order.
        rejected: Number of rows of the split that the audit rejected.
    """

    name: str
    entry: Entry
    table: pa.Table
    rejected: int

    @property
    def keys(self) -> pa.Array:
        """The sorted keys of the rows."""
        return pc.unique(self.table["key"]).sort()

    def captions(self) -> dict[str, list[Caption]]:
        """Return all captions by key, in key order."""
        by_key: dict[str, list[Caption]] = {key: [] for key in self.keys.to_pylist()}
        for caption in captions_in(self.table):
            by_key[caption.key].append(caption)
        return by_key


def require_verdict(layout: Layout) -> None:
    """Stop unless the audit passed.

    Raises:
        GateError: the audit did not pass.
    """
    read_manifest(layout.artifact("audit"), "verdict.json")
    path = layout.artifact("audit") / "verdict.json"
    if read_json(path).get("passed") is not True:
        raise GateError(
            f"{path} says that the audit did not pass, a gate failed; see report.html there, then fix "
            "the data or audit's limits in params"
        )


def kept_shards(layout: Layout, split: str, schema: pa.Schema = CAPTIONS) -> Iterator[KeptShard]:
    """Read the kept rows of a split from each image shard, with the columns of a schema.

    Raises:
        DataError: a file is missing or damaged.
    """
    shards = [entry for entry in read_manifest(layout.artifact("download"), "shards/") if entry.is_shard]
    read_manifest(layout.artifact("recaption"), "captions/")
    read_manifest(layout.artifact("audit"), "kept/")
    for entry in shards:
        yield KeptShard(entry.name, entry, *kept_captions(layout, entry.name, split, schema))


def kept_captions(layout: Layout, name: str, split: str, schema: pa.Schema) -> tuple[pa.Table, int]:
    """Read the captions of one shard's kept rows of a split, and the number of rows that the audit rejected.

    The caller verifies the files against their manifests, before or after.
    """
    table = read_table(layout.artifact("recaption") / "captions" / f"{name}.parquet", schema)
    table = table.filter(pc.equal(table["split"], split))
    kept_keys = key_column(layout.artifact("audit") / "kept" / f"{name}.parquet")
    is_kept = pc.is_in(table["key"], value_set=kept_keys)
    return table.filter(is_kept), len(pc.unique(table["key"].filter(pc.invert(is_kept))))
