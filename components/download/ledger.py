"""Ledger of a shard: the outcome of each row, in img2dataset's columns and ours (docs/identity.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.download.spool import SpoolRange
from components.sources.row import without_credentials
from components.sources.rows import ImageFile, ImageMember, ImageUrl, Rejection, Row
from components.storage.side_tables import read_table, write_table

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
        ("origin", pa.string()),
        ("pin", pa.string()),
        ("rounds", pa.int32()),
        ("jpeg_sha256", pa.string()),
    ]
)
ADDED = ("origin", "pin", "rounds", "jpeg_sha256")  # columns that earlier versions did not write
BEFORE = pa.schema([field for field in LEDGER if field.name not in ADDED])


@dataclass(frozen=True)
class FetchResult:
    """The outcome of one row: an image in the spool, or the reason why there is none."""

    status: str
    reason: str = ""
    sha256: str | None = None  # of the fetched bytes; of the JPEG if the image was rendered
    original_bytes: int | None = None
    final_url: str | None = None
    spooled: SpoolRange | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    orientation: int | None = None
    is_animated: bool | None = None
    jpeg_sha256: str | None = None


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
    origin: str  # where the bytes are from (`matching.origin_of`)
    pin: str | None  # sha256 that the list asked for
    rounds: int  # of retries that the row has had
    jpeg_sha256: str | None  # of the stored picture

    @property
    def reason(self) -> str:
        """The reason without the position; empty for a success."""
        return (self.error_message or "").partition(":")[0]


def read_ledger(path: Path) -> list[LedgerEntry]:
    """Read one shard's ledger, of an earlier version too: that has no `jpeg_sha256`, `pin` and `rounds`."""
    if "origin" in pq.read_schema(path).names:
        return [LedgerEntry(**row) for row in read_table(path, LEDGER).to_pylist()]
    lines = read_table(path, BEFORE).to_pylist()
    return [
        LedgerEntry(**line, origin=_origin_before(line), pin=None, rounds=0, jpeg_sha256=None)
        for line in lines
    ]


def _origin_before(line: dict[str, Any]) -> str:
    """Return the origin of a line that an earlier version wrote; empty for a scene, which is drawn again."""
    url = line["url"] or ""
    if "://" in url or not line["sha256"]:
        return url
    return f"sha256:{line['sha256']}"


def write_ledger(path: Path, entries: Sequence[LedgerEntry]) -> None:
    """Write one shard's ledger."""
    write_table(path, pa.Table.from_pylist([asdict(entry) for entry in entries], schema=LEDGER))


def reasons_of(stats: dict[str, Any]) -> dict[str, int]:
    """Return the number of rejected rows of a shard by reason."""
    return {reason: count for reason, count in stats["status_dict"].items() if reason != SUCCESS}


def entry_of(row: Row | Rejection, result: FetchResult, origin: str = "", rounds: int = 0) -> LedgerEntry:
    """Return the ledger entry of a row.

    Args:
        row: The row.
        result: Of fetching it.
        origin: Of its bytes.
        rounds: Of retries that it has had.
    """
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
        origin=origin,
        pin=row.image.sha256 if isinstance(row, Row) and isinstance(row.image, ImageUrl) else None,
        rounds=rounds,
        jpeg_sha256=result.jpeg_sha256,
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
