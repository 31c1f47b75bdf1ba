"""Tables with a JSON object a line, as sets of text pairs come (E5, sentence-transformers)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.errors import DataError
from components.sources.lines import open_lines
from components.sources.records import Record, check_columns


def read_json_lines(path: Path, wanted: Sequence[str]) -> Iterator[Record]:
    """Yield the records of a file with one object a line; an object may lack a column.

    Args:
        path: A UTF-8 file, packed by gzip if its name ends in .gz.
        wanted: The columns to take.

    Raises:
        ConfigurationError: no object has a column.
        DataError: there is no line, or the file is cut.
    """
    seen: dict[str, None] = {}  # in order
    with open_lines(path) as lines:
        for line in lines:
            where = f"{path.name} line {lines.number}"
            if lines.bad:
                lines.bad.clear()
                yield Record(where, {}, "bad_utf8")
            elif line.strip():
                tree = _object(line)
                if tree is None:
                    yield Record(where, {}, "bad_json")
                else:
                    seen |= dict.fromkeys(tree)
                    yield Record(where, {column: tree[column] for column in wanted if column in tree})
        if lines.number == 0:
            raise DataError(f"{path} has no line; expected a JSON object a line")
    check_columns(path, list(seen), wanted)


def _object(line: str) -> dict[str, Any] | None:
    try:
        tree = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return tree if isinstance(tree, dict) else None
