"""Records of a table, one at a time."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import ConfigurationError, DataError


@dataclass(frozen=True)
class Record:
    """One record: its values by column, or the reason why it has none."""

    where: str  # file and line, or row
    values: dict[str, Any]
    reason: str = ""


def check_columns(path: Path, found: Sequence[str], wanted: Sequence[str], hint: str = "") -> None:
    """Check that a table has each wanted column once.

    Args:
        path: Of the table.
        found: The names it has.
        wanted: Those of params.
        hint: What to do about a missing one, where that is known better than by a similar name.

    Raises:
        ConfigurationError: one is missing.
        DataError: there are two of one name.
    """
    if absent := [column for column in wanted if column not in found]:
        near = {column: difflib.get_close_matches(column, found, n=1) for column in absent}
        guesses = [f"did you mean {one[0]}?" for one in near.values() if one]
        names = ", ".join(f"{name:.40}" for name in found)
        advice = " ".join(guesses) or hint or "name one of them in params"
        raise ConfigurationError(f"{path} has no column {', '.join(absent)}; it has {names}: {advice}")
    for column in wanted:
        if found.count(column) > 1:
            raise DataError(
                f"{path} has {found.count(column)} columns {column}; expected one: rename the others"
            )
