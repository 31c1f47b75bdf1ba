"""Captions that tuning reads: text-only rows, and audited rows with images.

They are stored as Arrow columns, which take little more than the bytes of their texts. As Python objects they
would take several times as much in each training process, and ten million images are common.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256

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
from components.storage.manifest import read_manifest
from components.storage.side_tables import CAPTION_TEXTS, read_table

DIGEST_ROWS = 1 << 14


class CaptionRows:
    """Rows sorted by key; each has its captions by column, sorted by number.

    Args:
        tables: Captions with the columns of `CAPTION_TEXTS`; all captions of a row are in one table.

    Attributes:
        columns: Names of the columns in which at least one row has captions.
    """

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        parts = [(pa.array([], pa.string()), pa.table({})), *map(_by_row, tables)]
        keys = pa.chunked_array([keys for keys, _ in parts], pa.string())
        self._list_indices = pc.sort_indices(keys).to_numpy()  # (N,) index of each row in the lists
        # a part that lacks another part's column gets nulls there
        table = pa.concat_tables([lists for _, lists in parts], promote_options="default")
        self.columns: list[str] = sorted(table.column_names)
        self._lists = {name: table[name] for name in self.columns}

    @classmethod
    def of(cls, rows: Mapping[str, Mapping[str, Sequence[str]]]) -> CaptionRows:
        """Build from captions given by key and column."""
        lines = [
            {"key": key, "split": "train", "column": column, "number": number, "text": text}
            for key, captions in rows.items()
            for column, texts in captions.items()
            for number, text in enumerate(texts)
        ]
        return cls([pa.Table.from_pylist(lines, CAPTION_TEXTS)])

    def __len__(self) -> int:
        return len(self._list_indices)

    def captions(self, row: int, column: str) -> list[str]:
        """Return a row's captions in a column; an empty list where it has none."""
        if column not in self._lists:
            return []
        texts: list[str] | None = self._lists[column][int(self._list_indices[row])].as_py()
        return texts or []

    def counts(self, column: str) -> NDArray[np.int64]:
        """Return the number of captions of each row in a column: (N,)."""
        if column not in self._lists:
            return np.zeros(len(self), np.int64)
        lengths = pc.fill_null(pc.list_value_length(self._lists[column]), 0).to_numpy()
        counts: NDArray[np.int64] = lengths[self._list_indices].astype(np.int64)
        return counts

    def digest(self, columns: Iterable[str]) -> str:
        """Return a hash of the captions in some columns: of the rows that have any, in order.

        Keys, other columns and rows without any of these captions do not change it.
        """
        names = sorted(set(columns) & set(self.columns))
        digest = sha256(content_key(names).encode())
        counts = np.stack([np.zeros(len(self), np.int64), *(self.counts(name) for name in names)])
        order = self._list_indices[counts.any(axis=0)]
        for start in range(0, len(order), DIGEST_ROWS):
            for name in names:
                lists = self._lists[name].take(order[start : start + DIGEST_ROWS]).combine_chunks()
                lengths = pc.fill_null(pc.list_value_length(lists), 0)
                for values in (lengths, pc.binary_length(lists.flatten())):
                    digest.update(values.to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
                digest.update("".join(lists.flatten().to_pylist()).encode())
        return digest.hexdigest()


class CaptionTexts:
    """All captions of some columns as a sequence, ordered by row, by column as given, and by number."""

    def __init__(self, rows: CaptionRows, columns: Sequence[str]) -> None:
        self._rows, self._columns = rows, columns
        self._ends = np.cumsum(
            sum(rows.counts(column) for column in columns)
        )  # (N,) captions up to each row's last

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> str:
        row = int(np.searchsorted(self._ends, index, side="right"))
        row_texts = [text for column in self._columns for text in self._rows.captions(row, column)]
        return row_texts[index - int(self._ends[row])]


def read_caption_rows(layout: Layout, split: str, rows: Rows) -> CaptionRows:
    """Read the caption rows of one split; `rows` counts the rows that the audit dropped.

    Raises:
        DataError: a file is missing or damaged.
    """
    return CaptionRows(_read_tables(layout, split, rows))


def _read_tables(layout: Layout, split: str, rows: Rows) -> Iterator[pa.Table]:
    text_files = sorted((layout.artifact("download") / "texts").glob("*.parquet"))
    caption_files = sorted((layout.artifact("recaption") / "captions").glob("*.parquet"))
    work, file_count = layout.work("tune_llm"), len(text_files) + len(caption_files)
    progress = Progress(work, f"{work.name} reads {split}", file_count, "files", is_told=rank() == 0)
    for path in text_files:
        table = read_table(path, CAPTION_TEXTS)
        yield table.filter(pc.equal(table["split"], split))
        progress.advance()
    dropped = 0
    for path in caption_files:
        table, rejected = kept_captions(layout, path.stem, split, CAPTION_TEXTS)
        dropped += rejected
        yield table
        progress.advance()
    rows.reject("not_kept_by_audit", dropped)


def verify_files(layout: Layout) -> None:
    """Verify all files that `read_caption_rows` reads.

    Raises:
        DataError: a file is missing or damaged.
    """
    for artifact, below in (("download", "texts/"), ("recaption", "captions/"), ("audit", "kept/")):
        read_manifest(layout.artifact(artifact), below)


def _by_row(table: pa.Table) -> tuple[pa.Array, pa.Table]:
    """Return the row keys of a table, and a table with one list of captions per row and caption column."""
    keys = pc.unique(table["key"])
    lists = {}
    for name in pc.unique(table["column"]).to_pylist():
        column_rows = table.filter(pc.equal(table["column"], name))
        order, counts = by_key(column_rows["key"], column_rows["number"], keys)
        # 64-bit offsets: the texts of one file may exceed 2 GB
        texts = column_rows["text"].cast(pa.large_string()).take(order).combine_chunks()
        ends = np.concatenate([[0], np.cumsum(counts)])
        lists[name] = pa.ListArray.from_arrays(ends.astype(np.int32), texts)
    return keys, pa.table(lists)
