"""Seconds of work behind a result, earlier runs included.

A rerun that finds a result finished has spent nothing, and still says what the result took.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from components.storage.atomic import read_json, write_json

SECONDS = "seconds.json"  # of a finished piece, and of no output
SPENT = "spent.json"  # of a stage's work folder: by the name of each result
DIGITS = 2


@dataclass
class Spent:
    """Seconds behind a result, on the machines that worked on it.

    Attributes:
        work_seconds: Of training steps with the loading of their batches, or of the embedding of texts.
        measuring_seconds: Of measurements on validation between steps.
        is_known: False where a part is from a version that kept no seconds.
    """

    work_seconds: float = 0.0
    measuring_seconds: float = 0.0
    is_known: bool = True

    def tree(self) -> dict[str, float] | None:
        """Return plain values to be kept; None stands for unknown."""
        if not self.is_known:
            return None
        return {"work_seconds": self.work_seconds, "measuring_seconds": self.measuring_seconds}

    @classmethod
    def of(cls, tree: Mapping[str, float] | None) -> Self:
        """Return what plain values say."""
        return cls(tree["work_seconds"], tree["measuring_seconds"]) if tree else cls(is_known=False)


def together(parts: Iterable[Spent]) -> Spent:
    """Return the sum; it is unknown where a part is."""
    total = Spent()
    for part in parts:
        total.work_seconds += part.work_seconds
        total.measuring_seconds += part.measuring_seconds
        total.is_known = total.is_known and part.is_known
    return total


def keep_spent(piece_folder: Path, spent: Spent) -> None:
    """Write the seconds behind a piece into it; whoever puts it into an output leaves `SECONDS` out."""
    write_json(piece_folder / SECONDS, spent.tree())


def kept_spent(piece_folder: Path) -> Spent:
    """Return the seconds behind a finished piece; unknown of one that an earlier version made."""
    path = piece_folder / SECONDS
    return Spent.of(read_json(path) if path.is_file() else None)


def tell_spent(work: Path, spent: Mapping[str, Spent]) -> None:
    """Have `costs/<stage>.json` say the seconds behind each result of a stage.

    Args:
        work: The stage's folder in the work store.
        spent: By the name of a result in the output.
    """
    figures = {
        "spent_seconds": {name: _rounded(one, one.work_seconds) for name, one in spent.items()},
        "measuring_seconds": {name: _rounded(one, one.measuring_seconds) for name, one in spent.items()},
    }
    write_json(work / SPENT, figures)


def spent_figures(work: Path) -> dict[str, dict[str, float | None]]:
    """Return what this run of a stage told; null stands for unknown."""
    path = work / SPENT
    told: dict[str, dict[str, float | None]] = read_json(path) if path.is_file() else {}
    return {"spent_seconds": {}, "measuring_seconds": {}, **told}


def _rounded(spent: Spent, seconds: float) -> float | None:
    return round(seconds, DIGITS) if spent.is_known else None
