"""Length and comparison key of each caption, one job a table."""

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

LINES_AT_ONCE = 1 << 16  # as Python objects
_NAME = pa.dictionary(pa.int32(), pa.string())
ROWS = pa.schema([("key", pa.string()), ("split", pa.string())])
LINES = pa.schema(
    [
        ("row", pa.int32()),  # of ROWS
        ("column", _NAME),
        ("kind", _NAME),  # column and language: `short (en)`
        ("words", pa.int32()),
        ("digest", pa.uint64()),  # of the text
        ("plain_digest", pa.uint64()),  # of its words as splits are compared by them
    ]
)
ROWS_FILE, LINES_FILE = "rows.parquet", "lines.parquet"
MODULES = Modules(imported=("components.audit.caption_figures",), blocked_imports=("pandas", "torch"))


def count_words(text: str) -> int:
    """Return the number of words; each Chinese, Japanese or Thai character counts as one."""
    return len(WORD.findall(text))


def normalised(text: str) -> str:
    """Return a text's words as they are compared between splits: NFKC, lower case, no punctuation.

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
        path: Of the captions.
        figures: What `caption_figures` gave.
        shard: Whose images' they are; None for captions of rows without images.
    """

    path: Path
    figures: Path
    shard: str | None


@dataclass(frozen=True)
class CaptionFigures:
    """The figures of one table of captions; can be made in another process.

    Attributes:
        path: Of the table.
        sha256: Of its bytes, as the manifest has it.
        work: The stage's.
    """

    path: Path
    sha256: str
    work: Path

    def __call__(self, reporter: ProgressReporter) -> Path:
        """Return the finished piece."""
        key = content_key([code_of(self.work, "audit", "caption_figures"), self.sha256])
        made = get_or_build(self.work / "captions", key, lambda folder: write_figures(self.path, folder))
        reporter.advance()
        return made


def caption_figures(tables: Sequence[tuple[Path, str]], work: Path, processes: int) -> list[Path]:
    """Return the figures of each table of captions, made unless an earlier run has.

    Args:
        tables: Paths, and the sha256 of their bytes.
        work: The stage's folder in the work store.
        processes: How many to work with.
    """
    jobs = {sha256: CaptionFigures(path, sha256, work) for path, sha256 in tables}
    progress = Progress(work, "audit captions", len(jobs), "tables")
    made = pieces_by_content(jobs, processes, progress, MODULES, work / "captions")
    return [made[sha256] for _, sha256 in tables]


def write_figures(path: Path, folder: Path) -> None:
    """Write the figures of a table of captions into a folder."""
    rows: dict[str, int] = {}
    splits: list[str] = []
    parts = [LINES.empty_table()]
    for batch in read_table(path, CAPTIONS).to_batches(max_chunksize=LINES_AT_ONCE):
        of_line, words, digests, plain = array("i"), array("i"), array("Q"), array("Q")
        columns, kinds = [], []
        names = ("key", "split", "column", "language", "text")
        lines = zip(*(batch.column(name).to_pylist() for name in names), strict=True)
        for key, split, column, language, text in lines:
            if key not in rows:
                rows[key] = len(rows)
                splits.append(split)
            of_line.append(rows[key])
            columns.append(column)
            kinds.append(f"{column} ({language})")
            count, digest, plain_digest = _figures(text)
            words.append(count)
            digests.append(digest)
            plain.append(plain_digest)
        arrays = [
            *(pa.array(np.frombuffer(of_line, np.int32)), pa.array(columns).dictionary_encode()),
            *(pa.array(kinds).dictionary_encode(), pa.array(np.frombuffer(words, np.int32))),
            *(pa.array(np.frombuffer(one, np.uint64)) for one in (digests, plain)),
        ]
        parts.append(pa.table(arrays, schema=LINES))
    write_table(folder / ROWS_FILE, pa.table({"key": list(rows), "split": splits}, ROWS))
    write_table(folder / LINES_FILE, pa.concat_tables(parts).unify_dictionaries())


def _figures(text: str) -> tuple[int, int, int]:
    """Return the number of words, the digest of the text (NFC) and that of its plain words."""
    if text.isascii():  # then nothing is to be composed, and lower case has the same words
        words = WORD.findall(text.lower())
        return len(words), digest_of(text), digest_of(" ".join(words) or text.lower().strip())
    plain = unicodedata.normalize("NFC", normalised(text))  # lower case may have undone it
    return count_words(text), digest_of(unicodedata.normalize("NFC", text)), digest_of(plain)


def read_figures(table: CaptionTable) -> tuple[pa.ChunkedArray, NDArray[np.uint8], pa.Table]:
    """Return the keys of a table's rows, their splits, and its lines."""
    rows = read_table(table.figures / ROWS_FILE, ROWS)
    lines = read_table(table.figures / LINES_FILE, LINES).combine_chunks()
    return rows["key"], split_places(rows["split"], table.path), lines


def places_by_name(names: Any) -> Iterator[tuple[str, NDArray[np.int64]]]:  # noqa: ANN401 - a column of pyarrow
    """Yield each name of a column with its places, the first name first."""
    column = names.combine_chunks()
    codes = column.indices.to_numpy()
    for code, name in enumerate(column.dictionary.to_pylist()):
        places = np.flatnonzero(codes == code)
        if len(places):
            yield name, places
