"""Captions of one shard: those of the source, and the cached drafts of each captioner."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from components.errors import ConfigurationError, DataError
from components.http.retry import MAY_PASS
from components.recaption.captioners.captioner import Captioner, Part
from components.storage.atomic import content_key
from components.storage.attempts import Attempts, mark_for_retry
from components.storage.computed import FETCHED, code_of
from components.storage.known_images import TABLE, KnownImages, read_pictures, write_pictures
from components.storage.manifest import Entry
from components.storage.shards import Pair, image_table, is_storable, read_pairs, source_captions
from components.storage.side_tables import (
    Caption,
    Draft,
    key_column,
    read_drafts,
    write_drafts,
)

DRAFTS = "drafts.parquet"


class RecaptionShards:
    """All shards of download. A pass yields new objects: each keeps what it reads, memory holds only a few.

    Args:
        download: Folder of the artifact of download.
        entries: Manifest entries of the shards; verified.
        work: The stage's folder in the work store.
    """

    def __init__(self, download: Path, entries: Sequence[Entry], work: Path) -> None:
        self.download, self.entries, self.work = download, entries, work
        self._known: dict[Path, KnownImages] = {}

    def __iter__(self) -> Iterator[RecaptionShard]:
        for entry in self.entries:
            yield RecaptionShard(self, entry)

    def known(self, store: Path) -> KnownImages:
        """Return the images that results of a kind have, of those shards that had none at the first call."""
        if store not in self._known:
            finished = {path.name.partition(".")[0] for path in store.glob("[0-9a-f]*")}
            missing = [entry for entry in self.entries if entry.sha256 not in finished]
            self._known[store] = KnownImages(store, self.download, missing)
        return self._known[store]


@dataclass(frozen=True)
class RecaptionShard:
    """One shard of download."""

    shards: RecaptionShards
    entry: Entry

    @property
    def work(self) -> Path:
        """The stage's folder in the work store."""
        return self.shards.work

    @cached_property
    def pairs(self) -> list[Pair]:
        """All pairs of the tar, in use or not; read only for what is missing, and once for all captioners."""
        return list(read_pairs(self.shards.download, self.entry, self.work))

    @cached_property
    def captions(self) -> list[Caption]:
        """Captions of its images from the source."""
        return source_captions(self.shards.download, self.entry)

    @cached_property
    def captions_key(self) -> str:
        """Hash of the captions from the source."""
        return content_key([vars(caption) for caption in self.captions])

    @cached_property
    def splits(self) -> dict[str, str]:
        """The split of each key in use, in the order of the shard."""
        return dict(zip(self._images["key"].to_pylist(), self._images["split"].to_pylist(), strict=True))

    @cached_property
    def sha256s(self) -> dict[str, str]:
        """The sha256 of the picture of each key in use."""
        return dict(zip(self._images["key"].to_pylist(), self._images["sha256"].to_pylist(), strict=True))

    @cached_property
    def _images(self) -> pa.Table:
        return image_table(self.shards.download, self.entry)

    def code_of(self, result: str) -> str:
        """Return the hash of the code that computes one of the stage's results."""
        return code_of(self.work, "recaption", result)

    def keys_of(self, part: Part) -> list[str]:
        """Return the keys in use that a part writes for, in order."""
        return [key for key, split in self.splits.items() if split in part.splits]


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
    """Return the cached attempts of a captioner's part for a shard.

    Drafts from pixels are kept by the tar, which is written once; they hold what was asked for so far.
    """
    inputs = _inputs(shard, part)
    drafts = shard.work / "pieces" / captioner.name
    if part.reads_captions:
        return Attempts(drafts, content_key({"reads": shard.captions_key, **inputs}))
    return Attempts(drafts / content_key(inputs), shard.entry.sha256)


def _inputs(shard: RecaptionShard, part: Part) -> dict[str, Any]:
    """Return all that decides a part's drafts, besides the rows."""
    return {
        "columns": sorted(part.columns),
        "captioner": part.identity,
        **({"code": shard.code_of(part.made_by)} if part.made_by else {"format_version": FETCHED["draft"]}),
    }


def _attempts_by_rows(shard: RecaptionShard, captioner: Captioner, part: Part) -> Attempts:
    """Return the attempts of an earlier version, which kept drafts by the rows of the shard."""
    rows: dict[str, list[list[str]]] = {split: [] for split in sorted(part.splits)}
    for key in shard.keys_of(part):
        rows[shard.splits[key]].append([key, shard.sha256s[key]])
    pixels = {split: content_key(lines) if lines else None for split, lines in rows.items()}
    key = content_key({"reads": pixels, **_inputs(shard, part)})
    return Attempts(shard.work / "pieces" / captioner.name, key)


def drafts_of(shard: RecaptionShard, captioner: Captioner, progress: Counts | None = None) -> list[Draft]:
    """Return a captioner's drafts for a shard; write those that are missing.

    Args:
        shard: A shard of download.
        captioner: The captioner.
        progress: Counts the shard's rows once per part, each row as soon as a draft was written for it.
    """
    drafts: list[Draft] = []
    for part in captioner.parts():
        row_progress = RowProgress(progress)
        if shard.keys_of(part):
            drafts += _drafts_of_part(shard, captioner, part, row_progress)
        row_progress.end(shard.entry.rows or 0)
    return drafts


def _drafts_of_part(
    shard: RecaptionShard, captioner: Captioner, part: Part, row_progress: RowProgress
) -> list[Draft]:
    attempts = rounds_of(shard, captioner, part)

    def make(folder: Path, before: Path | None) -> None:
        drafts = _written(shard, captioner, part, _earlier(shard, part, attempts, before), row_progress)
        write_drafts(folder / DRAFTS, drafts)
        sha256s = _sha256s(before) | shard.sha256s
        keys = list(dict.fromkeys(draft.caption.key for draft in drafts))
        write_pictures(folder, keys, [sha256s[key] for key in keys])

    latest = attempts.latest()
    if latest is None:
        attempts.take_over(_attempts_by_rows(shard, captioner, part))
    elif not _keys_in(latest).issuperset(shard.keys_of(part)):
        mark_for_retry(latest)  # a row was not in use, or in another split
        latest = None
    finished = attempts.finish(latest, part.retry_rounds, is_lacking, make)
    drafts = read_drafts(finished / DRAFTS)
    return [_now(shard, draft) for draft in drafts if shard.splits.get(draft.caption.key) in part.splits]


def _now(shard: RecaptionShard, draft: Draft) -> Draft:
    """Return a draft with the split that its row has now, if the row is in use."""
    split = shard.splits.get(draft.caption.key, draft.caption.split)
    return (
        draft if split == draft.caption.split else replace(draft, caption=replace(draft.caption, split=split))
    )


def _earlier(shard: RecaptionShard, part: Part, attempts: Attempts, before: Path | None) -> list[Draft]:
    """Return the drafts that need not be written: those of an earlier attempt, and of equal pictures."""
    keys = shard.keys_of(part)
    earlier = [_now(shard, draft) for draft in settled(read_drafts(before / DRAFTS))] if before else []
    lacking = set(keys) - {draft.caption.key for draft in earlier}
    if part.reads_captions:
        return earlier
    drafts_by_sha256: dict[str, list[Draft]] = defaultdict(list)
    known = shard.shards.known(attempts.store).find(shard.sha256s[key] for key in keys if key in lacking)
    for folder, lines in known.items():
        keys_there = read_pictures(folder)["key"].to_pylist()
        sha256s = {keys_there[line]: sha256 for sha256, line in lines.items()}
        for draft in settled(read_drafts(folder / DRAFTS)):
            if sha256 := sha256s.get(draft.caption.key):
                drafts_by_sha256[sha256].append(draft)
    for key in keys:
        if key in lacking:
            equal = drafts_by_sha256[shard.sha256s[key]]
            earlier += [_now(shard, replace(one, caption=replace(one.caption, key=key))) for one in equal]
    return earlier


def _sha256s(finished: Path | None) -> dict[str, str]:
    """Return the sha256 of each picture of an attempt by key; one of an earlier version does not say."""
    if finished is None or not (finished / TABLE).is_file():
        return {}
    table = read_pictures(finished)
    return dict(zip(table["key"].to_pylist(), table["sha256"].to_pylist(), strict=True))


def _keys_in(finished: Path) -> set[str]:
    """Return the keys that an attempt has drafts of."""
    return set(key_column(finished / DRAFTS).to_pylist())


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
    """Return earlier drafts and new ones for the other rows, in the order of the shard."""
    keys = shard.keys_of(part)
    missing_keys = set(keys) - {draft.caption.key for draft in earlier}
    missing = [key for key in keys if key in missing_keys]
    jpegs: dict[str, bytes] = {}
    if missing and not part.reads_captions:  # otherwise the tar is not opened
        jpegs = {pair.key: pair.jpeg for pair in shard.pairs if pair.key in missing_keys}
    pairs = [Pair(key, jpegs.get(key, b""), "", {"split": shard.splits[key]}) for key in missing]
    written = captioner.write(part, pairs, shard.captions) if pairs else []
    drafts = [_storable(draft) for draft in row_progress.of(written)]
    in_use = [draft for draft in earlier if shard.splits.get(draft.caption.key) in part.splits]
    _check_complete(shard, captioner, part, drafts + in_use)
    if not earlier:
        return drafts
    position = {key: index for index, key in enumerate(shard.splits)}
    return sorted(drafts + earlier, key=lambda draft: position.get(draft.caption.key, len(position)))


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
