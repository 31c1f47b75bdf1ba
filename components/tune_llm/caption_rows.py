"""The captions that tuning sees: text-only rows, and rows with images that the audit kept.

They are held as Arrow columns, in little more than the bytes of their texts: as Python objects, each process
that trains would hold several times as much, and ten million images are common.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.ml.distributed import rank
from components.running.progress import Progress
from components.running.rows import Rows
from components.storage.atomic import content_key
from components.storage.audited_rows import kept_captions
from components.storage.caption_index import by_key
from components.storage.layout import Layout
from components.storage.manifest import folder_key
from components.storage.side_tables import CAPTION_TEXTS, read_table


class CaptionRows:
    """Rows in the order of their keys, and the captions of each by column, in the order of their numbers.

    Args:
        tables: Captions, as `CAPTION_TEXTS` has them; a row's are all in one table.

    Attributes:
        columns: Names of those that any row has captions of.
    """

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        parts = [(pa.array([], pa.string()), pa.table({})), *map(_by_row, tables)]
        keys = pa.chunked_array([keys for keys, _ in parts], pa.string())
        self._places = pc.sort_indices(keys).to_numpy()  # of the rows, in the lists
        # a part that lacks a column of another has nulls there
        table = pa.concat_tables([lists for _, lists in parts], promote_options="default")
        self.columns: list[str] = sorted(table.column_names)
        self._lists = {name: table[name] for name in self.columns}

    @classmethod
    def of(cls, rows: Mapping[str, Mapping[str, Sequence[str]]]) -> CaptionRows:
        """Hold captions that are given by key and column."""
        lines = [
            {"key": key, "split": "train", "column": column, "number": number, "text": text}
            for key, captions in rows.items()
            for column, texts in captions.items()
            for number, text in enumerate(texts)
        ]
        return cls([pa.Table.from_pylist(lines, CAPTION_TEXTS)])

    def __len__(self) -> int:
        return len(self._places)

    def captions(self, row: int, column: str) -> list[str]:
        """Return a row's captions of a column; none where it has none."""
        if column not in self._lists:
            return []
        found: list[str] | None = self._lists[column][int(self._places[row])].as_py()
        return found or []

    def counts(self, column: str) -> NDArray[np.int64]:
        """Return how many captions of a column each row has: (N,)."""
        if column not in self._lists:
            return np.zeros(len(self), np.int64)
        lengths = pc.fill_null(pc.list_value_length(self._lists[column]), 0).to_numpy()
        counts: NDArray[np.int64] = lengths[self._places].astype(np.int64)
        return counts


class CaptionTexts:
    """All captions of some columns, in the order of rows, of columns as they are named, and of numbers."""

    def __init__(self, rows: CaptionRows, columns: Sequence[str]) -> None:
        self._rows, self._columns = rows, columns
        self._ends = np.cumsum(sum(rows.counts(column) for column in columns))  # (N,)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, place: int) -> str:
        row = int(np.searchsorted(self._ends, place, side="right"))
        of_row = [text for column in self._columns for text in self._rows.captions(row, column)]
        return of_row[place - int(self._ends[row])]


def read_caption_rows(layout: Layout, split: str, rows: Rows) -> CaptionRows:
    """Read the rows of one split; `rows` counts those that the audit dropped.

    Raises:
        DataError: a file is missing or damaged.
    """
    return CaptionRows(_kept(layout, split, rows))


def _kept(layout: Layout, split: str, rows: Rows) -> Iterator[pa.Table]:
    texts = sorted((layout.artifact("download") / "texts").glob("*.parquet"))
    shards = sorted((layout.artifact("recaption") / "captions").glob("*.parquet"))
    work, files = layout.work("tune_llm"), len(texts) + len(shards)
    progress = Progress(work, f"{work.name} reads {split}", files, "files", is_told=rank() == 0)
    for path in texts:
        table = read_table(path, CAPTION_TEXTS)
        yield table.filter(pc.equal(table["split"], split))
        progress.advance()
    dropped = 0
    for path in shards:
        table, not_kept = kept_captions(layout, path.stem, split, CAPTION_TEXTS)
        dropped += not_kept
        yield table
        progress.advance()
    rows.reject("not_kept_by_audit", dropped)


def data_key(layout: Layout) -> str:
    """Return one hash for everything that `read_caption_rows` reads; verifies it."""
    return content_key(
        [
            folder_key(layout.artifact("download"), "texts/"),
            folder_key(layout.artifact("recaption"), "captions/"),
            folder_key(layout.artifact("audit"), "kept/"),
        ]
    )


def _by_row(table: pa.Table) -> tuple[pa.Array, pa.Table]:
    """Return the keys of a table's rows, and their captions: a list a row in each column that has any."""
    keys = pc.unique(table["key"])
    lists = {}
    for name in pc.unique(table["column"]).to_pylist():
        of_column = table.filter(pc.equal(table["column"], name))
        order, counts = by_key(of_column["key"], of_column["number"], keys)
        # 64-bit offsets: the texts of one file may be more than 2 GB
        texts = of_column["text"].cast(pa.large_string()).take(order).combine_chunks()
        ends = np.concatenate([[0], np.cumsum(counts)])
        lists[name] = pa.ListArray.from_arrays(ends.astype(np.int32), texts)
    return keys, pa.table(lists)
