"""Take over rows from the previous attempt at a shard, so that they are not fetched again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from components.download.ledger import SUCCESS, read_ledger, read_stats, reasons_of
from components.download.refusal import CONNECTION_REASONS, may_pass
from components.download.spool import Spool
from components.storage.shards import read_pairs, shards_of

if TYPE_CHECKING:
    from components.download.shard_fetcher import FetchResult


def is_lacking(finished: Path, name: str) -> bool:
    """Say whether a row of a shard failed for a reason that may pass."""
    return any(may_pass(reason) for reason in reasons_of(read_stats(finished, name)))


def came_without_network(finished: Path, name: str) -> bool:
    """Say whether a shard has not one image and connections failed: it is worth asking again."""
    stats = read_stats(finished, name)
    return stats["successes"] == 0 and bool(CONNECTION_REASONS & stats["status_dict"].keys())


def known_rows(finished: Path, work: Path, spool: Spool) -> dict[int, FetchResult]:
    """Return the rows of an earlier round whose fate is settled, by number; pictures go to the spool."""
    from components.download.shard_fetcher import FetchResult

    (shard,) = shards_of(finished)
    places = {pair.key: spool.put(pair.jpeg) for pair in read_pairs(finished, shard, work)}
    return {
        number: FetchResult(
            one.status,
            one.reason,
            one.sha256,
            one.original_bytes,
            one.final_url,
            places[one.key] if one.status == SUCCESS else None,
            one.width,
            one.height,
            one.original_width,
            one.original_height,
            json.loads(one.exif)["Orientation"] if one.exif else None,
            one.is_animated,
        )
        for number, one in enumerate(read_ledger(finished / f"{shard.name}.parquet"))
        if not may_pass(one.reason)
    }
