"""What a table gives: records, one at a time."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.faults import ConfigurationFault, DataFault


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
        ConfigurationFault: one is missing.
        DataFault: there are two of one name.
    """
    for column in wanted:
        if column not in found:
            near = difflib.get_close_matches(column, found, n=1)
            advice = f"did you mean {near[0]}?" if near else hint or "name one of them in params"
            names = ", ".join(f"{name:.40}" for name in found[:10])
            raise ConfigurationFault(f"{path} has no column {column}; it has {names}: {advice}")
        if found.count(column) > 1:
            raise DataFault(
                f"{path} has {found.count(column)} columns {column}; expected one: rename the others"
            )
