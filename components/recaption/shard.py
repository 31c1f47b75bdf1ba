"""One shard's captions: those of the source, and what each captioner wrote, kept as finished pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from components.faults import DataFault
from components.recaption.captioner import Captioner
from components.running.progress import Progress
from components.storage.atomic import content_key
from components.storage.manifest import Entry
from components.storage.pieces import piece
from components.storage.shards import Pair, read_pairs
from components.storage.side_tables import (
    Caption,
    Draft,
    read_captions,
    read_drafts,
    write_captions,
    write_drafts,
)

FORMAT_VERSION = 2  # raised by hand when the same params write other captions, or pieces hold other files
CAPTIONS, DRAFTS = "captions.parquet", "drafts.parquet"


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
    """Return the captions that the source gave a shard's rows.

    Raises:
        DataFault: one of them is no text that UTF-8 can hold.
    """

    def make(folder: Path) -> None:
        captions = [
            Caption(key=pair.key, split=pair.metadata["split"], **caption)
            for pair in shard.pairs
            for caption in pair.metadata["captions"]
        ]
        if odd := next((caption.key for caption in captions if not _is_storable(caption.text)), None):
            raise DataFault(
                f"{shard.entry.uri}: a caption of {odd} holds half a character; expected text: "
                "run `dvc repro --force download`"
            )
        write_captions(folder / CAPTIONS, captions)

    key = content_key({"shard": shard.entry.sha256, "format_version": FORMAT_VERSION})
    return read_captions(piece(shard.work / "pieces" / "source", key, make) / CAPTIONS)


def drafts_of(
    shard: Shard, captioner: Captioner, source: list[Caption], progress: Progress | None = None
) -> list[Draft]:
    """Return what a captioner wrote for a shard; written now unless a finished piece is there.

    Args:
        shard: One of download.
        captioner: Who writes.
        source: What `source_captions` gave.
        progress: Counts the shard's rows, each as soon as something was written for it.
    """

    def make(folder: Path) -> None:
        drafts = [_storable(draft) for draft in _shown(captioner.write(shard.pairs, source), progress)]
        _check_complete(shard, captioner, drafts)
        write_drafts(folder / DRAFTS, drafts)

    decided_by = {
        "shard": shard.entry.sha256,
        "captioner": captioner.identity(),
        "format_version": FORMAT_VERSION,
    }
    done = progress.done if progress else 0
    folder = piece(shard.work / "pieces" / captioner.name, content_key(decided_by), make)
    if progress and (left := (shard.entry.rows or 0) - (progress.done - done)):
        progress.advance(left)
    return read_drafts(folder / DRAFTS)


def _shown(drafts: Iterable[Draft], progress: Progress | None) -> Iterator[Draft]:
    seen: set[str] = set()
    for draft in drafts:
        if progress and draft.caption.key not in seen:
            seen.add(draft.caption.key)
            progress.advance()
        yield draft


def _storable(draft: Draft) -> Draft:
    """Return a draft that UTF-8 can hold: one with half a character is set aside, that half spelled out."""
    text = draft.caption.text
    if _is_storable(text):
        return draft
    spelled = text.encode("utf-8", "backslashreplace").decode()
    return Draft(replace(draft.caption, text=spelled), "control_characters")


def _is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_complete(shard: Shard, captioner: Captioner, drafts: list[Draft]) -> None:
    """Check that each row got its drafts and no other row's: none lost, none shifted."""
    splits = {pair.key: pair.metadata["split"] for pair in shard.pairs}
    wanted = {
        (key, column) for key, own in splits.items() for column, split in captioner.columns() if split == own
    }
    found = {(draft.caption.key, draft.caption.column) for draft in drafts}
    wrong = [draft for draft in drafts if splits.get(draft.caption.key) != draft.caption.split]
    if found != wanted or wrong:
        raise DataFault(
            f"recaption: {captioner.name} wrote {len(found)} of {len(wanted)} captions asked for in shard "
            f"{shard.entry.name}, {len(found - wanted) + len(wrong)} of them unasked for: please report this"
        )
