"""The ledger of a shard: what became of each row, in img2dataset's columns and five of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from components.storage.side_tables import read_table, write_table

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
class Entry:
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


def read_ledger(path: Path) -> list[Entry]:
    """Read one shard's ledger."""
    return [Entry(**row) for row in read_table(path, LEDGER).to_pylist()]


def write_ledger(path: Path, entries: Sequence[Entry]) -> None:
    """Write one shard's ledger."""
    write_table(path, pa.Table.from_pylist([asdict(entry) for entry in entries], schema=LEDGER))
