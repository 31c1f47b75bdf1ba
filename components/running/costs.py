"""What a run cost: seconds, memory, bytes. Never part of an output, for it differs between equal runs.

A rerun that finds a result finished has spent nothing, and still says what the result took.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from components.running.progress import worked
from components.storage.atomic import read_json, sha256_of, write_json
from components.storage.layout import MANIFEST, Layout

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


KIBIBYTE = 1024


class Costs:
    """Measures from its making to `write`."""

    def __init__(self) -> None:
        self._start_seconds = time.monotonic()

    def write(self, layout: Layout, stage: str) -> None:
        """Write `costs/<stage>.json`."""
        seconds = time.monotonic() - self._start_seconds
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        peak = max(own.ru_maxrss, children.ru_maxrss) * (KIBIBYTE if sys.platform == "linux" else 1)
        write_json(
            layout.costs(stage),
            {
                "seconds": round(seconds, 2),
                "cpu_seconds": round(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, 2),
                "peak_memory_bytes": peak,
                "artifact_bytes": _bytes_below(layout.artifact(stage)),
                "rows_in_per_second": round(_rows_in(layout, stage) / max(seconds, 1e-9), 2),
                "worked": worked(layout.work(stage)),
                **spent_figures(layout.work(stage)),
                "manifest_sha256": manifest_sha256(layout, stage),
                "cores": os.cpu_count(),
                **_bits(),
                "machine": platform.machine(),
                "torch": version("torch"),
            },
        )


def manifest_sha256(layout: Layout, stage: str) -> str | None:
    """Return what tells a stage's output from another one, which DVC may put in its place; costs stay."""
    path = layout.artifact(stage) / MANIFEST
    return sha256_of(path) if path.is_file() else None


def _bits() -> dict[str, Any]:
    """Return what decides the last bits of a result besides torch's version; null without torch."""
    torch = sys.modules.get("torch")
    return {
        "threads": torch.get_num_threads() if torch else None,
        "instruction_set": torch.backends.cpu.get_cpu_capability() if torch else None,
    }


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _rows_in(layout: Layout, stage: str) -> int:
    path = layout.metrics(stage)
    return int(read_json(path).get("rows_in", 0)) if path.is_file() else 0
