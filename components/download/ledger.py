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
FAILED_TO_DOWNLOAD = "failed_to_download"  # no bytes of an image came
FAILED_TO_RESIZE = "failed_to_resize"  # they came and were not taken

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
    error_message: str | None  # the reason, and where the row stands in the input if the row itself is bad
    width: int | None
    height: int | None
    original_width: int | None
    original_height: int | None
    exif: str | None  # JSON; the orientation that was applied, nothing else is kept
    sha256: str | None  # of the bytes as they came; of the JPEG where the image was drawn
    original_bytes: int | None
    final_url: str | None  # where redirects ended; None without any
    is_animated: bool | None  # its first frame was taken
    split: str
    source: str

    @property
    def reason(self) -> str:
        """The reason without the place; empty for a success."""
        return (self.error_message or "").partition(":")[0]


def read_ledger(path: Path) -> list[LedgerEntry]:
    """Read one shard's ledger."""
    return [LedgerEntry(**row) for row in read_table(path, LEDGER).to_pylist()]


def write_ledger(path: Path, entries: Sequence[LedgerEntry]) -> None:
    """Write one shard's ledger."""
    write_table(path, pa.Table.from_pylist([asdict(entry) for entry in entries], schema=LEDGER))


def read_stats(finished: Path, name: str) -> dict[str, Any]:
    """Read the figures of a finished shard, as `stats_of` made them."""
    stats: dict[str, Any] = read_json(finished / f"{name}_stats.json")
    return stats


def reasons_of(stats: dict[str, Any]) -> dict[str, int]:
    """Return the rejected rows of a shard by reason."""
    return {reason: count for reason, count in stats["status_dict"].items() if reason != SUCCESS}


def entry_of(row: Row | Rejection, taken: FetchResult) -> LedgerEntry:
    """Return what the ledger says of a row."""
    where = f": {row.where}" if isinstance(row, Rejection) else ""
    return LedgerEntry(
        url=_address(row),
        caption=row.captions[0].text if isinstance(row, Row) else None,
        key=row.key,
        status=taken.status,
        error_message=f"{taken.reason}{where}" if taken.reason else None,
        width=taken.width,
        height=taken.height,
        original_width=taken.original_width,
        original_height=taken.original_height,
        exif=None if taken.orientation is None else f'{{"Orientation": {taken.orientation}}}',
        sha256=taken.sha256,
        original_bytes=taken.original_bytes,
        final_url=taken.final_url,
        is_animated=taken.is_animated,
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
    """Return the figures of a shard, as img2dataset has them and some of ours."""
    statuses = Counter(entry.status for entry in entries)
    good = [entry for entry in entries if entry.status == SUCCESS]
    return {
        "count": len(entries),
        "successes": statuses[SUCCESS],
        "failed_to_download": statuses[FAILED_TO_DOWNLOAD],
        "failed_to_resize": statuses[FAILED_TO_RESIZE],
        "status_dict": dict(Counter(entry.reason or SUCCESS for entry in entries)),
        "splits": dict(Counter(entry.split for entry in good)),
        "sources": dict(Counter(entry.source for entry in good)),
        "animated": sum(bool(entry.is_animated) for entry in good),
    }
