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

SHOWN_CHARACTERS = 120  # of a sample caption of a gate
TRAIN = SPLITS.index("train")


@dataclass(frozen=True)
class Overlap:
    """Captions of one kind in an evaluation split that train has too; the share is 0..1."""

    share: float
    rows: int
    samples: list[dict[str, str]]  # the first ones


@dataclass
class _Evaluated:
    """The captions of one kind and split: their hashes, and their table and line."""

    digests: list[NDArray[np.uint64]] = field(default_factory=list)
    tables: list[NDArray[np.int32]] = field(default_factory=list)
    lines: list[NDArray[np.int32]] = field(default_factory=list)


class Captions:
    """Statistics of all captions, read table by table; memory: 16 bytes per caption outside train.

    A kind is a column with its language, e.g. `short (en)`.

    Args:
        tables: All tables of captions.
        images: All images.
        samples: Number of sample captions to keep of those that an evaluation split shares with train.
        work: Folder for temporary counts on disk; removed afterwards.

    Raises:
        DataError: a table is damaged or has captions of an unknown image.
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
        counters: dict[str, DuplicateCounter] = {}
        totals = Counter[str]()
        for number, table in enumerate(self._tables):
            rows, splits, lines = read_figures(table)
            if table.shard is None:
                self.texts += len(rows)
            else:
                self._rows_of(table, rows)
            line_splits = splits[lines["row"].to_numpy()]
            words = lines["words"].to_numpy()
            for kind, indices in places_by_name(lines["kind"]):
                self._words[kind][0] += int(words[indices].sum())
                self._words[kind][1] += len(indices)
                self._keep_evaluated(kind, indices, line_splits, lines, number)
            for column, indices in places_by_name(lines["column"]):
                train = indices[line_splits[indices] == TRAIN]
                if len(train):
                    counter = counters.setdefault(column, DuplicateCounter(work / f"{len(counters):04d}"))
                    counter.add_all(lines["digest"].to_numpy()[train])
                    totals[column] += len(train)
        for column, counter in sorted(counters.items()):
            self._repeated[column] = (1 - counter.distinct() / totals[column], totals[column])

    def _keep_evaluated(
        self,
        kind: str,
        indices: NDArray[np.int64],
        line_splits: NDArray[np.uint8],
        lines: pa.Table,
        table: int,
    ) -> None:
        for split in np.unique(line_splits[indices]):
            if split == TRAIN:
                continue
            matches = indices[line_splits[indices] == split]
            evaluated = self._evaluated[SPLITS[split], kind]
            evaluated.digests.append(lines["plain_digest"].to_numpy()[matches])
            evaluated.tables.append(np.full(len(matches), table, np.int32))
            evaluated.lines.append(matches.astype(np.int32))

    def _compare(self) -> dict[tuple[str, str], Overlap]:
        """Find the captions of validation and test that train has too."""
        joined = {
            split_and_kind: np.concatenate(evaluated.digests)
            for split_and_kind, evaluated in sorted(self._evaluated.items())
        }
        distinct = np.unique(np.concatenate([np.empty(0, np.uint64), *joined.values()]))
        in_train = np.zeros(len(distinct), bool)
        for table in self._tables if len(distinct) else ():
            _, splits, lines = read_figures(table)
            train = lines["plain_digest"].to_numpy()[splits[lines["row"].to_numpy()] == TRAIN]
            indices = np.minimum(np.searchsorted(distinct, train), len(distinct) - 1)
            in_train[indices[distinct[indices] == train]] = True
        overlaps = {}
        for (split, kind), digests in joined.items():
            shared = np.flatnonzero(in_train[np.searchsorted(distinct, digests)])
            samples = self._sample_captions(self._evaluated.pop((split, kind)), kind, shared[: self._samples])
            overlaps[split, kind] = Overlap(len(shared) / len(digests), len(digests), samples)
        return overlaps

    def _sample_captions(
        self, evaluated: _Evaluated, kind: str, indices: NDArray[np.int64]
    ) -> list[dict[str, str]]:
        tables, lines = np.concatenate(evaluated.tables), np.concatenate(evaluated.lines)
        samples = []
        for index in indices:
            captions = read_table(self._tables[tables[index]].path, CAPTIONS)
            line = captions.slice(int(lines[index]), 1).to_pylist()[0]
            samples.append({"key": line["key"], "kind": kind, "text": line["text"][:SHOWN_CHARACTERS]})
        return samples

    def kinds(self) -> list[str]:
        """Return every column with its language."""
        return sorted(self._words)

    def mean_words(self) -> dict[str, float]:
        """Return the mean length of a caption of each kind, in words."""
        return {kind: total / count for kind, (total, count) in sorted(self._words.items())}

    def repeated_shares(self) -> dict[str, tuple[float, int]]:
        """Return for each train column the share of captions that repeat an earlier text, and the count."""
        return self._repeated

    def overlaps(self) -> dict[tuple[str, str], Overlap]:
        """Return by split and kind which captions of validation and test occur in train, normalised."""
        return self._overlaps

    def train_lengths(self, lost: NDArray[np.bool_]) -> dict[str, Counter[int]]:
        """Return for each kind the number of train captions by their number of words.

        Args:
            lost: (N,) mask of images whose captions are not counted.
        """
        lengths: dict[str, Counter[int]] = {kind: Counter() for kind in self.kinds()}
        for table in self._tables:
            rows, splits, lines = read_figures(table)
            selected_rows = splits == TRAIN
            if table.shard is not None:
                selected_rows &= ~lost[self._rows_of(table, rows)]
            is_selected = selected_rows[lines["row"].to_numpy()]
            words = lines["words"].to_numpy()
            for kind, indices in places_by_name(lines["kind"]):
                values, counts = np.unique(words[indices[is_selected[indices]]], return_counts=True)
                lengths[kind].update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        return lengths

    def every_nth(self, step: int) -> Iterator[tuple[int | None, str, Mapping[str, float]]]:
        """Yield the mean caption length by kind, for every n-th image with captions and every n-th text row.

        Yields:
            The row of the image, or None for a text row; the split; and the mean number of words by kind.
        """
        texts = 0
        for table in self._tables:
            rows, splits, lines = read_figures(table)
            numbers = self._rows_of(table, rows) if table.shard is not None else texts + np.arange(len(rows))
            is_selected = numbers % step == 0
            texts += 0 if table.shard is not None else len(rows)
            selected_lines = lines.filter(pa.array(is_selected[lines["row"].to_numpy()]))
            words: dict[int, dict[str, list[int]]] = {int(row): {} for row in np.flatnonzero(is_selected)}
            columns = (selected_lines[name].to_pylist() for name in ("row", "kind", "words"))
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
