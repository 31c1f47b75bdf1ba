"""One shard's captions: those of the source, and what each captioner wrote, kept as finished pieces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from components.errors import ConfigurationError, DataError
from components.http.retry import MAY_PASS
from components.recaption.captioners.captioner import Captioner, Part
from components.storage.atomic import content_key
from components.storage.attempts import Attempts
from components.storage.computed import FETCHED, code_of
from components.storage.manifest import Entry
from components.storage.shards import Pair, image_table, is_storable, read_pairs, source_captions
from components.storage.side_tables import (
    Caption,
    Draft,
    read_drafts,
    write_drafts,
)

DRAFTS = "drafts.parquet"


@dataclass(frozen=True)
class RecaptionShard:
    """One shard of download."""

    download: Path
    entry: Entry
    work: Path  # the stage's

    @cached_property
    def pairs(self) -> list[Pair]:
        """All pairs; only read where a draft from pixels is missing, and once for all captioners."""
        return list(read_pairs(self.download, self.entry, self.work))

    @cached_property
    def captions(self) -> list[Caption]:
        """The captions that the source gave its images."""
        return source_captions(self.download, self.entry)

    @cached_property
    def splits(self) -> dict[str, str]:
        """The split of each key, in the order of the shard."""
        table = image_table(self.download, self.entry)
        return dict(zip(table["key"].to_pylist(), table["split"].to_pylist(), strict=True))

    def code_of(self, result: str) -> str:
        """Return the hash of the code that computes one of the stage's results."""
        return code_of(self.work, "recaption", result)

    @cached_property
    def pixels(self) -> dict[str, str]:
        """A hash of the keys and images of each split that has rows."""
        images: dict[str, list[list[str]]] = defaultdict(list)
        for image in image_table(self.download, self.entry).select(["key", "split", "sha256"]).to_pylist():
            images[image["split"]].append([image["key"], image["sha256"]])
        return {split: content_key(found) for split, found in images.items()}


def check_columns(captioners: list[Captioner], source: list[Caption]) -> None:
    """Check that each column of a split has one writer.

    Raises:
        ConfigurationError: one has two.
    """
    taken = {(caption.column, caption.split) for caption in source}
    for captioner in captioners:
        if twice := sorted(taken & captioner.columns()):
            named = ", ".join(f"{column} of {split}" for column, split in twice)
            raise ConfigurationError(
                f"recaption.captioners {captioner.name} writes column {named}, which is there already; "
                "expected a name of its own"
            )
        taken |= captioner.columns()


def rounds_of(shard: RecaptionShard, captioner: Captioner, part: Part) -> Attempts:
    """Return the pieces of what a captioner's part writes for a shard: decided by what it reads of it."""
    seen = {split: shard.pixels.get(split) for split in sorted(part.splits)}
    decided_by = {
        "reads": shard.entry.sha256 if part.reads_captions else seen,
        "columns": sorted(part.columns),
        "captioner": part.identity,
        **({"code": shard.code_of(part.made_by)} if part.made_by else {"format_version": FETCHED["draft"]}),
    }
    return Attempts(shard.work / "pieces" / captioner.name, content_key(decided_by))


def drafts_of(shard: RecaptionShard, captioner: Captioner, progress: Counts | None = None) -> list[Draft]:
    """Return what a captioner wrote for a shard; written now unless finished pieces are there.

    Args:
        shard: One of download.
        captioner: Who writes.
        progress: Counts the shard's rows once a part, each as soon as something was written for it.
    """
    found: list[Draft] = []
    for part in captioner.parts():
        shown = RowProgress(progress)
        if part.splits.isdisjoint(shard.pixels):  # no row to write for
            shown.end(shard.entry.rows or 0)
            continue

        def make(
            folder: Path, before: Path | None, _number: int, part: Part = part, shown: RowProgress = shown
        ) -> None:
            earlier = settled(read_drafts(before / DRAFTS)) if before else []
            write_drafts(folder / DRAFTS, _written(shard, captioner, part, earlier, shown))

        rounds = rounds_of(shard, captioner, part)
        finished = rounds.finish(rounds.latest(), part.retry_rounds, is_lacking, make)
        found += read_drafts(finished / DRAFTS)
        shown.end(shard.entry.rows or 0)
    return found


def is_lacking(finished: Path) -> bool:
    """Say whether another round may bring a caption that a finished one lacks."""
    return may_pass(read_drafts(finished / DRAFTS))


def _written(
    shard: RecaptionShard,
    captioner: Captioner,
    part: Part,
    earlier: list[Draft],
    shown: RowProgress,
) -> list[Draft]:
    """Return all drafts of a part: those of an earlier round, and what is written now for the other rows."""
    known = {draft.caption.key for draft in earlier}
    keys = [key for key, split in shard.splits.items() if split in part.splits]
    asked = set(keys) - known
    if part.reads_captions:  # and no pixels: the tar stays closed
        pairs = [Pair(key, b"", "", {"split": shard.splits[key]}) for key in keys if key in asked]
    else:
        pairs = [pair for pair in shard.pairs if pair.key in asked] if asked else []
    written = captioner.write(part, pairs, shard.captions) if asked else []
    drafts = [_storable(draft) for draft in shown.of(written)]
    _check_complete(shard, captioner, part, drafts + earlier)
    if not earlier:
        return drafts
    place = {key: number for number, key in enumerate(keys)}
    return sorted(drafts + earlier, key=lambda draft: place[draft.caption.key])


def _storable(draft: Draft) -> Draft:
    """Return a draft that UTF-8 can hold: one with half a character is set aside, that half spelled out."""
    text = draft.caption.text
    if is_storable(text):
        return draft
    spelled = text.encode("utf-8", "backslashreplace").decode()
    return Draft(replace(draft.caption, text=spelled), "control_characters")


def _check_complete(shard: RecaptionShard, captioner: Captioner, part: Part, drafts: list[Draft]) -> None:
    """Check that each row got its drafts and no other row's: none lost, none shifted."""
    splits = shard.splits
    wanted = {(key, column) for key, own in splits.items() for column, split in part.columns if split == own}
    found = {(draft.caption.key, draft.caption.column) for draft in drafts}
    wrong = [draft for draft in drafts if splits.get(draft.caption.key) != draft.caption.split]
    if found != wanted or wrong:
        raise DataError(
            f"recaption: {captioner.name} wrote {len(found)} of {len(wanted)} captions asked for in shard "
            f"{shard.entry.name}, {len(found - wanted) + len(wrong)} of them unasked for: please report this"
        )


def may_pass(drafts: Sequence[Draft]) -> bool:
    """Say whether another round may bring a caption that lacks."""
    return any(draft.reason in MAY_PASS for draft in drafts)


def settled(drafts: Sequence[Draft]) -> list[Draft]:
    """Return the drafts of those rows that need not be asked for again."""
    again = {draft.caption.key for draft in drafts if draft.reason in MAY_PASS}
    return [draft for draft in drafts if draft.caption.key not in again]


class Counts(Protocol):
    """Something that counts rows: the progress of a stage, or of a process that tells it."""

    def advance(self, count: int = 1, /) -> None:
        """Count rows that are done."""


class RowProgress:
    """The rows that a part has something written for, told one by one."""

    def __init__(self, progress: Counts | None) -> None:
        self._progress, self._keys = progress, set[str]()

    def of(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """Yield drafts as they come."""
        for draft in drafts:
            if self._progress and draft.caption.key not in self._keys:
                self._keys.add(draft.caption.key)
                self._progress.advance()
            yield draft

    def end(self, rows: int) -> None:
        """Report all other rows."""
        if self._progress and (left := rows - len(self._keys)) > 0:
            self._progress.advance(left)
