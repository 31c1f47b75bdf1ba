"""Caption statistics: length, language, repetition, overlap between splits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.audit.caption_figures import CaptionTable, places_by_name, read_figures
from components.audit.images import SPLITS, AuditImages
from components.errors import DataError
from components.storage.atomic import remove
from components.storage.duplicate_counter import DuplicateCounter
from components.storage.side_tables import CAPTIONS, read_table

SHOWN_CHARACTERS = 120  # of a caption beside a gate
TRAIN = SPLITS.index("train")


@dataclass(frozen=True)
class Overlap:
    """Captions of one kind of an evaluation set that train has too; the share is 0..1."""

    share: float
    rows: int
    samples: list[dict[str, str]]  # the first ones


@dataclass
class _Evaluated:
    """The captions of one kind and split: what they are compared by, and where they stand."""

    digests: list[NDArray[np.uint64]] = field(default_factory=list)
    tables: list[NDArray[np.int32]] = field(default_factory=list)
    lines: list[NDArray[np.int32]] = field(default_factory=list)


class Captions:
    """Figures of all captions, table by table; in memory are 16 bytes of each caption that is not of train.

    A kind is a column with its language, e.g. `short (en)`.

    Args:
        tables: All of them.
        images: That they are of.
        samples: Captions shown of those that an evaluation set shares with train.
        work: For what is counted on disk; removed again.

    Raises:
        DataError: a table is damaged or has captions of an image that is not there.
    """

    def __init__(self, tables: Sequence[CaptionTable], images: AuditImages, samples: int, work: Path) -> None:
        self._tables, self._images, self._samples = tables, images, samples
        self._words: dict[str, list[int]] = defaultdict(lambda: [0, 0])  # sum, count
        self._repeated: dict[str, tuple[float, int]] = {}
        self._evaluated: dict[tuple[str, str], _Evaluated] = defaultdict(_Evaluated)
        self.texts = 0  # rows without an image
        remove(work)
        try:
            self._count(work)
        finally:
            remove(work)
        self._overlaps = self._compare()

    def _count(self, work: Path) -> None:
        digests: dict[str, DuplicateCounter] = {}
        totals = Counter[str]()
        for number, table in enumerate(self._tables):
            rows, splits, lines = read_figures(table)
            if table.shard is None:
                self.texts += len(rows)
            else:
                self._rows_of(table, rows)
            of_line = splits[lines["row"].to_numpy()]
            words = lines["words"].to_numpy()
            for kind, places in places_by_name(lines["kind"]):
                self._words[kind][0] += int(words[places].sum())
                self._words[kind][1] += len(places)
                self._keep_evaluated(kind, places, of_line, lines, number)
            for column, places in places_by_name(lines["column"]):
                train = places[of_line[places] == TRAIN]
                if len(train):
                    store = digests.setdefault(column, DuplicateCounter(work / f"{len(digests):04d}"))
                    store.add_all(lines["digest"].to_numpy()[train])
                    totals[column] += len(train)
        for column, store in sorted(digests.items()):
            self._repeated[column] = (1 - store.distinct() / totals[column], totals[column])

    def _keep_evaluated(
        self, kind: str, places: NDArray[np.int64], of_line: NDArray[np.uint8], lines: pa.Table, table: int
    ) -> None:
        for split in np.unique(of_line[places]):
            if split == TRAIN:
                continue
            own = places[of_line[places] == split]
            found = self._evaluated[SPLITS[split], kind]
            found.digests.append(lines["plain_digest"].to_numpy()[own])
            found.tables.append(np.full(len(own), table, np.int32))
            found.lines.append(own.astype(np.int32))

    def _compare(self) -> dict[tuple[str, str], Overlap]:
        """Look for the captions of validation and test in train."""
        joined = {of: np.concatenate(found.digests) for of, found in sorted(self._evaluated.items())}
        known = np.unique(np.concatenate([np.empty(0, np.uint64), *joined.values()]))
        seen = np.zeros(len(known), bool)
        for table in self._tables if len(known) else ():
            _, splits, lines = read_figures(table)
            train = lines["plain_digest"].to_numpy()[splits[lines["row"].to_numpy()] == TRAIN]
            places = np.minimum(np.searchsorted(known, train), len(known) - 1)
            seen[places[known[places] == train]] = True
        overlaps = {}
        for (split, kind), digests in joined.items():
            shared = np.flatnonzero(seen[np.searchsorted(known, digests)])
            samples = self._shown(self._evaluated.pop((split, kind)), kind, shared[: self._samples])
            overlaps[split, kind] = Overlap(len(shared) / len(digests), len(digests), samples)
        return overlaps

    def _shown(self, found: _Evaluated, kind: str, places: NDArray[np.int64]) -> list[dict[str, str]]:
        tables, lines = np.concatenate(found.tables), np.concatenate(found.lines)
        shown = []
        for place in places:
            captions = read_table(self._tables[tables[place]].path, CAPTIONS)
            line = captions.slice(int(lines[place]), 1).to_pylist()[0]
            shown.append({"key": line["key"], "kind": kind, "text": line["text"][:SHOWN_CHARACTERS]})
        return shown

    def kinds(self) -> list[str]:
        """Return every column with its language."""
        return sorted(self._words)

    def mean_words(self) -> dict[str, float]:
        """Return the mean length of a caption of each kind, in words."""
        return {kind: total / count for kind, (total, count) in sorted(self._words.items())}

    def repeated_shares(self) -> dict[str, tuple[float, int]]:
        """Return for each column of train the share of captions whose text came before, and their number."""
        return self._repeated

    def overlaps(self) -> dict[tuple[str, str], Overlap]:
        """Return by split and kind which captions of validation and test stand in train, normalised."""
        return self._overlaps

    def train_lengths(self, lost: NDArray[np.bool_]) -> dict[str, Counter[int]]:
        """Return by kind how many captions of train have how many words.

        Args:
            lost: (N,) images whose captions are not counted.
        """
        found: dict[str, Counter[int]] = {kind: Counter() for kind in self.kinds()}
        for table in self._tables:
            rows, splits, lines = read_figures(table)
            wanted = splits == TRAIN
            if table.shard is not None:
                wanted &= ~lost[self._rows_of(table, rows)]
            is_wanted = wanted[lines["row"].to_numpy()]
            words = lines["words"].to_numpy()
            for kind, places in places_by_name(lines["kind"]):
                values, counts = np.unique(words[places[is_wanted[places]]], return_counts=True)
                found[kind].update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        return found

    def every_nth(self, step: int) -> Iterator[tuple[int | None, str, Mapping[str, float]]]:
        """Yield the mean length of captions by kind of every n-th image that has any, and n-th text.

        Yields:
            The row of the image, or None of a text; the split; and words by kind.
        """
        texts = 0
        for table in self._tables:
            rows, splits, lines = read_figures(table)
            numbers = self._rows_of(table, rows) if table.shard is not None else texts + np.arange(len(rows))
            wanted = numbers % step == 0
            texts += 0 if table.shard is not None else len(rows)
            chosen = lines.filter(pa.array(wanted[lines["row"].to_numpy()]))
            words: dict[int, dict[str, list[int]]] = {int(row): {} for row in np.flatnonzero(wanted)}
            columns = (chosen[name].to_pylist() for name in ("row", "kind", "words"))
            for row, kind, count in zip(*columns, strict=True):
                words[row].setdefault(kind, []).append(count)
            for row, kinds in words.items():
                means = {kind: sum(counts) / len(counts) for kind, counts in kinds.items()}
                yield (
                    int(numbers[row]) if table.shard is not None else None,
                    SPLITS[splits[row]],
                    means,
                )

    def _rows_of(self, table: CaptionTable, keys: pa.ChunkedArray) -> NDArray[np.int64]:
        rows = self._images.find(table.shard or "", keys)
        if (rows < 0).any():
            key = keys[int(np.argmin(rows))].as_py()
            raise DataError(
                f"{table.path} has captions of {key}, which is no image of download; "
                "run `dvc repro --force recaption`"
            )
        return rows
