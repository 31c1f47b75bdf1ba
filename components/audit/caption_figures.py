"""Number of words and comparison hashes of each caption, one job per table."""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.audit.images import split_places
from components.ml.text.words import WORD
from components.running.jobs import Modules, ProgressReporter
from components.running.progress import Progress
from components.running.workers import pieces_by_content
from components.storage.atomic import content_key
from components.storage.computed import code_of
from components.storage.duplicate_counter import digest_of
from components.storage.result_cache import get_or_build
from components.storage.side_tables import CAPTIONS, read_table, write_table

LINES_AT_ONCE = 1 << 16  # held as Python objects
_NAME = pa.dictionary(pa.int32(), pa.string())
ROWS = pa.schema([("key", pa.string()), ("split", pa.string())])
LINES = pa.schema(
    [
        ("row", pa.int32()),  # row number in ROWS
        ("column", _NAME),
        ("kind", _NAME),  # column and language: `short (en)`
        ("words", pa.int32()),
        ("digest", pa.uint64()),  # hash of the text
        ("plain_digest", pa.uint64()),  # hash of its normalised words, to compare splits
    ]
)
ROWS_FILE, LINES_FILE = "rows.parquet", "lines.parquet"
MODULES = Modules(imported=("components.audit.caption_figures",), blocked_imports=("pandas", "torch"))


def count_words(text: str) -> int:
    """Return the number of words; each Chinese, Japanese or Thai character counts as one."""
    return len(WORD.findall(text))


def normalised(text: str) -> str:
    """Return the words of a text in the form compared between splits: NFKC, lower case, no punctuation.

    Example:
        >>> normalised("A  Red, red CIRCLE.")
        'a red red circle'
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(WORD.findall(plain)) or plain.strip()


@dataclass(frozen=True)
class CaptionTable:
    """A table of captions and its figures.

    Attributes:
        path: Path of the captions.
        figures: Folder of the figures, from `caption_figures`.
        shard: Shard of their images; None for captions of rows without images.
    """

    path: Path
    figures: Path
    shard: str | None


@dataclass(frozen=True)
class CaptionFigures:
    """The job that computes the figures of one table of captions; it can run in another process.

    Attributes:
        path: Path of the table.
        sha256: Its sha256, from the manifest.
        work: The stage's folder in the work store.
    """

    path: Path
    sha256: str
    work: Path

    def __call__(self, reporter: ProgressReporter) -> Path:
        """Return the folder of the cached result."""
        key = content_key([code_of(self.work, "audit", "caption_figures"), self.sha256])
        result = get_or_build(self.work / "captions", key, lambda folder: write_figures(self.path, folder))
        reporter.advance()
        return result


def caption_figures(tables: Sequence[tuple[Path, str]], work: Path, processes: int) -> list[Path]:
    """Return the folder of figures of each table of captions; compute what no earlier run has cached.

    Args:
        tables: Path and sha256 of each table.
        work: The stage's folder in the work store.
        processes: Number of worker processes.
    """
    jobs = {sha256: CaptionFigures(path, sha256, work) for path, sha256 in tables}
    progress = Progress(work, "audit captions", len(jobs), "tables")
    results = pieces_by_content(jobs, processes, progress, MODULES, work / "captions")
    return [results[sha256] for _, sha256 in tables]


def write_figures(path: Path, folder: Path) -> None:
    """Compute the figures of a table of captions and write them into a folder."""
    rows: dict[str, int] = {}
    splits: list[str] = []
    parts = [LINES.empty_table()]
    for batch in read_table(path, CAPTIONS).to_batches(max_chunksize=LINES_AT_ONCE):
        row_numbers, words, digests, plain_digests = array("i"), array("i"), array("Q"), array("Q")
        columns, kinds = [], []
        names = ("key", "split", "column", "language", "text")
        lines = zip(*(batch.column(name).to_pylist() for name in names), strict=True)
        for key, split, column, language, text in lines:
            if key not in rows:
                rows[key] = len(rows)
                splits.append(split)
            row_numbers.append(rows[key])
            columns.append(column)
            kinds.append(f"{column} ({language})")
            count, digest, plain_digest = _figures(text)
            words.append(count)
            digests.append(digest)
            plain_digests.append(plain_digest)
        arrays = [
            *(pa.array(np.frombuffer(row_numbers, np.int32)), pa.array(columns).dictionary_encode()),
            *(pa.array(kinds).dictionary_encode(), pa.array(np.frombuffer(words, np.int32))),
            *(pa.array(np.frombuffer(hashes, np.uint64)) for hashes in (digests, plain_digests)),
        ]
        parts.append(pa.table(arrays, schema=LINES))
    write_table(folder / ROWS_FILE, pa.table({"key": list(rows), "split": splits}, ROWS))
    write_table(folder / LINES_FILE, pa.concat_tables(parts).unify_dictionaries())


def _figures(text: str) -> tuple[int, int, int]:
    """Return the number of words, the hash of the text (NFC) and the hash of its normalised words."""
    if text.isascii():  # ASCII needs no composition, and lower case has the same words
        words = WORD.findall(text.lower())
        return len(words), digest_of(text), digest_of(" ".join(words) or text.lower().strip())
    plain = unicodedata.normalize("NFC", normalised(text))  # lower case may have decomposed characters
    return count_words(text), digest_of(unicodedata.normalize("NFC", text)), digest_of(plain)


def read_figures(table: CaptionTable) -> tuple[pa.ChunkedArray, NDArray[np.uint8], pa.Table]:
    """Return the keys of a table's rows, their splits as indices of `SPLITS`, and its lines."""
    rows = read_table(table.figures / ROWS_FILE, ROWS)
    lines = read_table(table.figures / LINES_FILE, LINES).combine_chunks()
    return rows["key"], split_places(rows["split"], table.path), lines


def places_by_name(names: Any) -> Iterator[tuple[str, NDArray[np.int64]]]:  # noqa: ANN401 - a column of pyarrow
    """Yield each name of a column with the indices where it stands, in order of first appearance."""
    column = names.combine_chunks()
    codes = column.indices.to_numpy()
    for code, name in enumerate(column.dictionary.to_pylist()):
        indices = np.flatnonzero(codes == code)
        if len(indices):
            yield name, indices
