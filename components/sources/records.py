"""A record of a table, and the check of its columns."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import ConfigurationError, DataError


@dataclass(frozen=True)
class Record:
    """One record of a table: its values by column, or the reason why it cannot be read."""

    where: str  # file, and line or row number
    values: dict[str, Any]
    reason: str = ""


def check_columns(path: Path, found: Sequence[str], wanted: Sequence[str], hint: str = "") -> None:
    """Check that a table has each wanted column once.

    Args:
        path: The table's path.
        found: The column names that the table has.
        wanted: The column names from params.
        hint: What to do about a missing column if no similar name is found.

    Raises:
        ConfigurationError: a column is missing.
        DataError: two columns have the same name.
    """
    if absent := [column for column in wanted if column not in found]:
        close = {column: difflib.get_close_matches(column, found, n=1) for column in absent}
        guesses = [f"did you mean {matches[0]}?" for matches in close.values() if matches]
        names = ", ".join(f"{name:.40}" for name in found)
        advice = " ".join(guesses) or hint or "name one of them in params"
        raise ConfigurationError(f"{path} has no column {', '.join(absent)}; it has {names}: {advice}")
    for column in wanted:
        if found.count(column) > 1:
            raise DataError(
                f"{path} has {found.count(column)} columns {column}; expected one: rename the others"
            )
