"""Ledger of a shard: the outcome of each row, in img2dataset's columns and five of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from components.sources.row import without_credentials
from components.sources.rows import ImageFile, ImageMember, ImageUrl, Rejection, Row
from components.storage.atomic import read_json
from components.storage.side_tables import read_table, write_table

if TYPE_CHECKING:
    from components.download.shard_fetcher import FetchResult

SUCCESS = "success"
FAILED_TO_DOWNLOAD = "failed_to_download"  # no bytes of an image were fetched
FAILED_TO_RESIZE = "failed_to_resize"  # bytes were fetched, but the image was rejected

LEDGER = pa.schema(
    [
        ("url", pa.string()),
        ("caption", pa.string()),
        ("key", pa.string()),
        ("status", pa.string()),
        ("error_message", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("exif", pa.string()),
        ("sha256", pa.string()),
        ("original_bytes", pa.int64()),
        ("final_url", pa.string()),
        ("is_animated", pa.bool_()),
        ("split", pa.string()),
        ("source", pa.string()),
    ]
)


@dataclass(frozen=True)
class LedgerEntry:
    """One row of the ledger; sides in pixels."""

    url: str | None
    caption: str | None
    key: str
    status: str
    error_message: str | None  # the reason, and the position in the input if the row itself is bad
    width: int | None
    height: int | None
    original_width: int | None
    original_height: int | None
    exif: str | None  # JSON of the orientation that was applied; no other tag is kept
    sha256: str | None  # of the fetched bytes; of the JPEG if the image was rendered
    original_bytes: int | None
    final_url: str | None  # where redirects ended; None without any
    is_animated: bool | None  # reduced to its first frame
    split: str
    source: str

    @property
    def reason(self) -> str:
        """The reason without the position; empty for a success."""
        return (self.error_message or "").partition(":")[0]


def read_ledger(path: Path) -> list[LedgerEntry]:
    """Read one shard's ledger."""
    return [LedgerEntry(**row) for row in read_table(path, LEDGER).to_pylist()]


def write_ledger(path: Path, entries: Sequence[LedgerEntry]) -> None:
    """Write one shard's ledger."""
    write_table(path, pa.Table.from_pylist([asdict(entry) for entry in entries], schema=LEDGER))


def read_stats(finished: Path, name: str) -> dict[str, Any]:
    """Read the statistics of a finished shard, as `stats_of` returned them."""
    stats: dict[str, Any] = read_json(finished / f"{name}_stats.json")
    return stats


def reasons_of(stats: dict[str, Any]) -> dict[str, int]:
    """Return the number of rejected rows of a shard by reason."""
    return {reason: count for reason, count in stats["status_dict"].items() if reason != SUCCESS}


def entry_of(row: Row | Rejection, result: FetchResult) -> LedgerEntry:
    """Return the ledger entry of a row."""
    position = f": {row.where}" if isinstance(row, Rejection) else ""
    return LedgerEntry(
        url=_address(row),
        caption=row.captions[0].text if isinstance(row, Row) else None,
        key=row.key,
        status=result.status,
        error_message=f"{result.reason}{position}" if result.reason else None,
        width=result.width,
        height=result.height,
        original_width=result.original_width,
        original_height=result.original_height,
        exif=None if result.orientation is None else f'{{"Orientation": {result.orientation}}}',
        sha256=result.sha256,
        original_bytes=result.original_bytes,
        final_url=result.final_url,
        is_animated=result.is_animated,
        split=row.split,
        source=row.source,
    )


def _address(row: Row | Rejection) -> str | None:
    if isinstance(row, Rejection):
        return without_credentials(row.url) or None
    if isinstance(row.image, ImageUrl):
        return without_credentials(row.image.url)
    return row.image.name if isinstance(row.image, ImageFile | ImageMember) else None


def stats_of(entries: Sequence[LedgerEntry]) -> dict[str, Any]:
    """Return the statistics of a shard: those of img2dataset and some of ours."""
    statuses = Counter(entry.status for entry in entries)
    successes = [entry for entry in entries if entry.status == SUCCESS]
    return {
        "count": len(entries),
        "successes": statuses[SUCCESS],
        "failed_to_download": statuses[FAILED_TO_DOWNLOAD],
        "failed_to_resize": statuses[FAILED_TO_RESIZE],
        "status_dict": dict(Counter(entry.reason or SUCCESS for entry in entries)),
        "splits": dict(Counter(entry.split for entry in successes)),
        "sources": dict(Counter(entry.source for entry in successes)),
        "animated": sum(bool(entry.is_animated) for entry in successes),
    }
