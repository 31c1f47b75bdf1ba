"""One shard's captions: those of the source, and what each captioner wrote, kept as finished pieces."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from components.recaption.captioner import Captioner, Written, accepted
from components.storage.atomic import content_key, read_json, write_json
from components.storage.manifest import Entry
from components.storage.pieces import piece
from components.storage.shards import Pair, read_pairs
from components.storage.side_tables import Caption, read_captions, write_captions

FORMAT_VERSION = 1  # raised by hand when the same params write other captions
CAPTIONS, REJECTED = "captions.parquet", "rejected.json"


@dataclass(frozen=True)
class Shard:
    """One shard of download."""

    download: Path
    entry: Entry
    work: Path  # the stage's

    @cached_property
    def pairs(self) -> list[Pair]:
        """All pairs; only read where a piece is missing, and once for all captioners."""
        return list(read_pairs(self.download, self.entry, self.work))


def source_captions(shard: Shard) -> list[Caption]:
    """Return the captions that the source gave a shard's rows."""

    def make(folder: Path) -> None:
        captions = [
            Caption(key=pair.key, split=pair.metadata["split"], **caption)
            for pair in shard.pairs
            for caption in pair.metadata["captions"]
        ]
        write_captions(folder / CAPTIONS, captions)

    key = content_key({"shard": shard.entry.sha256, "format_version": FORMAT_VERSION})
    return read_captions(piece(shard.work / "pieces" / "source", key, make) / CAPTIONS)


def written_captions(shard: Shard, captioner: Captioner, source: list[Caption]) -> Written:
    """Return what a captioner wrote for a shard; written now unless a finished piece is there."""

    def make(folder: Path) -> None:
        written = accepted(captioner.write(shard.pairs, source))
        write_captions(folder / CAPTIONS, written.captions)
        write_json(folder / REJECTED, written.rejected)

    decided_by = {
        "shard": shard.entry.sha256,
        "captioner": captioner.identity(),
        "format_version": FORMAT_VERSION,
    }
    folder = piece(shard.work / "pieces" / captioner.name, content_key(decided_by), make)
    return Written(read_captions(folder / CAPTIONS), read_json(folder / REJECTED))
