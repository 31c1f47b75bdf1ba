"""Captions of one shard: those of the source, and the cached drafts of each captioner."""

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
from components.storage.shards import Pair, image_table, is_storable, pairs_in_use, source_captions
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
    work: Path  # the stage's folder in the work store

    @cached_property
    def pairs(self) -> list[Pair]:
        """All pairs; read only if drafts from pixels are missing, and once for all captioners."""
        return list(pairs_in_use(self.download, self.entry, self.work))

    @cached_property
    def captions(self) -> list[Caption]:
        """Captions of its images from the source."""
        return source_captions(self.download, self.entry)

    @cached_property
    def captions_key(self) -> str:
        """Hash of the captions from the source."""
        return content_key([vars(caption) for caption in self.captions])

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
        """Hash of the keys and images of each split that has rows."""
        images: dict[str, list[list[str]]] = defaultdict(list)
        for image in image_table(self.download, self.entry).select(["key", "split", "sha256"]).to_pylist():
            images[image["split"]].append([image["key"], image["sha256"]])
        return {split: content_key(rows) for split, rows in images.items()}


def check_columns(captioners: list[Captioner], source: list[Caption]) -> None:
    """Check that each column of a split has one writer.

    Raises:
        ConfigurationError: a column has two.
    """
    existing = {(caption.column, caption.split) for caption in source}
    for captioner in captioners:
        if repeated := sorted(existing & captioner.columns()):
            columns = ", ".join(f"{column} of {split}" for column, split in repeated)
            raise ConfigurationError(
                f"recaption.captioners {captioner.name} writes column {columns}, which is there already; "
                "expected a new name; rename the column"
            )
        existing |= captioner.columns()


def rounds_of(shard: RecaptionShard, captioner: Captioner, part: Part) -> Attempts:
    """Return the cached attempts of a captioner's part for a shard, keyed by all it reads."""
    pixels = {split: shard.pixels.get(split) for split in sorted(part.splits)}
    inputs = {
        "reads": shard.captions_key if part.reads_captions else pixels,
        "columns": sorted(part.columns),
        "captioner": part.identity,
        **({"code": shard.code_of(part.made_by)} if part.made_by else {"format_version": FETCHED["draft"]}),
    }
    return Attempts(shard.work / "pieces" / captioner.name, content_key(inputs))


def drafts_of(shard: RecaptionShard, captioner: Captioner, progress: Counts | None = None) -> list[Draft]:
    """Return a captioner's drafts for a shard; write them now unless they are cached.

    Args:
        shard: A shard of download.
        captioner: The captioner.
        progress: Counts the shard's rows once per part, each row as soon as a draft was written for it.
    """
    drafts: list[Draft] = []
    for part in captioner.parts():
        row_progress = RowProgress(progress)
        if part.splits.isdisjoint(shard.pixels):  # no rows in these splits
            row_progress.end(shard.entry.rows or 0)
            continue

        def make(
            folder: Path,
            before: Path | None,
            _number: int,
            part: Part = part,
            row_progress: RowProgress = row_progress,
        ) -> None:
            earlier = settled(read_drafts(before / DRAFTS)) if before else []
            write_drafts(folder / DRAFTS, _written(shard, captioner, part, earlier, row_progress))

        attempts = rounds_of(shard, captioner, part)
        finished = attempts.finish(attempts.latest(), part.retry_rounds, is_lacking, make)
        drafts += read_drafts(finished / DRAFTS)
        row_progress.end(shard.entry.rows or 0)
    return drafts


def is_lacking(finished: Path) -> bool:
    """Say whether another attempt may bring captions that a finished one lacks."""
    return may_pass(read_drafts(finished / DRAFTS))


def _written(
    shard: RecaptionShard,
    captioner: Captioner,
    part: Part,
    earlier: list[Draft],
    row_progress: RowProgress,
) -> list[Draft]:
    """Return all drafts of a part: those of an earlier attempt, and new ones for the other rows."""
    earlier_keys = {draft.caption.key for draft in earlier}
    keys = [key for key, split in shard.splits.items() if split in part.splits]
    missing_keys = set(keys) - earlier_keys
    if part.reads_captions:  # no pixels are needed: the tar is not opened
        pairs = [Pair(key, b"", "", {"split": shard.splits[key]}) for key in keys if key in missing_keys]
    else:
        pairs = [pair for pair in shard.pairs if pair.key in missing_keys] if missing_keys else []
    written = captioner.write(part, pairs, shard.captions) if missing_keys else []
    drafts = [_storable(draft) for draft in row_progress.of(written)]
    _check_complete(shard, captioner, part, drafts + earlier)
    if not earlier:
        return drafts
    position = {key: index for index, key in enumerate(keys)}
    return sorted(drafts + earlier, key=lambda draft: position[draft.caption.key])


def _storable(draft: Draft) -> Draft:
    """Return a draft that UTF-8 can encode: reject one with a lone surrogate, which is escaped."""
    text = draft.caption.text
    if is_storable(text):
        return draft
    escaped = text.encode("utf-8", "backslashreplace").decode()
    return Draft(replace(draft.caption, text=escaped), "control_characters")


def _check_complete(shard: RecaptionShard, captioner: Captioner, part: Part, drafts: list[Draft]) -> None:
    """Check that each row got its own drafts: none is lost or shifted."""
    splits = shard.splits
    expected = {
        (key, column)
        for key, key_split in splits.items()
        for column, split in part.columns
        if split == key_split
    }
    written = {(draft.caption.key, draft.caption.column) for draft in drafts}
    wrong = [draft for draft in drafts if splits.get(draft.caption.key) != draft.caption.split]
    if written != expected or wrong:
        raise DataError(
            f"recaption: {captioner.name} wrote {len(written)} of {len(expected)} captions asked for in "
            f"shard {shard.entry.name}, {len(written - expected) + len(wrong)} of them for other rows "
            "or columns; please report this"
        )


def may_pass(drafts: Sequence[Draft]) -> bool:
    """Say whether any draft failed for a reason that is worth a retry."""
    return any(draft.reason in MAY_PASS for draft in drafts)


def settled(drafts: Sequence[Draft]) -> list[Draft]:
    """Return the drafts of rows that need no retry."""
    retry_keys = {draft.caption.key for draft in drafts if draft.reason in MAY_PASS}
    return [draft for draft in drafts if draft.caption.key not in retry_keys]


class Counts(Protocol):
    """A counter of rows: the progress of a stage, or the reporter of a worker process."""

    def advance(self, count: int = 1, /) -> None:
        """Count finished rows."""


class RowProgress:
    """Report a row as done with its first draft of a part."""

    def __init__(self, progress: Counts | None) -> None:
        self._progress, self._keys = progress, set[str]()

    def of(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """Yield drafts and count their rows."""
        for draft in drafts:
            if self._progress and draft.caption.key not in self._keys:
                self._keys.add(draft.caption.key)
                self._progress.advance()
            yield draft

    def end(self, rows: int) -> None:
        """Count all other rows as done."""
        if self._progress and (remaining := rows - len(self._keys)) > 0:
            self._progress.advance(remaining)
