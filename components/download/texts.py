"""Stream captions of rows without images into one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.download.survey import groups
from components.running.rows import Rows
from components.sources.rows import Rejection, Row
from components.storage.atomic import new_file
from components.storage.side_tables import CAPTIONS

GROUP_ROWS = 10_000


def write_texts(path: Path, rows: Iterable[Row | Rejection]) -> tuple[Rows, Counter[str]]:
    """Write the captions of text rows, ten thousand rows in memory at a time.

    Returns:
        The count of rows, and the rows that went out per split.
    """
    count = Rows()
    splits: Counter[str] = Counter()
    with new_file(path) as part, pq.ParquetWriter(part, CAPTIONS, compression="zstd") as writer:
        for group in groups(rows, GROUP_ROWS):
            captions = []
            for row in group:
                if isinstance(row, Rejection):
                    count.reject(row.reason, first=row.described())
                    continue
                count.accept()
                splits[row.split] += 1
                captions += [asdict(caption) for caption in row.captions]
            writer.write_table(pa.Table.from_pylist(captions, schema=CAPTIONS))
    return count, splits
