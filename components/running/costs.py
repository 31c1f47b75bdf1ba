"""Costs of a run: seconds, memory, bytes. Never part of an output, because equal runs differ in them.

A rerun that finds a finished result spends nothing, and still reports what the result took.
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

SECONDS = "seconds.json"  # in the folder of a cached result, never in an output
SPENT = "spent.json"  # in a stage's work folder: seconds by the name of a result
DIGITS = 2
KIBIBYTE = 1024


@dataclass
class Spent:
    """Seconds that a result took, on the machines that computed it.

    Attributes:
        work_seconds: Seconds of training steps, loading of batches included, or of embedding texts.
        measuring_seconds: Seconds of measurements on validation between steps.
        is_known: False if a part is from a version that stored no seconds.
    """

    work_seconds: float = 0.0
    measuring_seconds: float = 0.0
    is_known: bool = True

    def tree(self) -> dict[str, float] | None:
        """Return the values to store as JSON; None if unknown."""
        if not self.is_known:
            return None
        return {"work_seconds": self.work_seconds, "measuring_seconds": self.measuring_seconds}

    @classmethod
    def of(cls, tree: Mapping[str, float] | None) -> Self:
        """Return the object from the values that `tree` returned."""
        return cls(tree["work_seconds"], tree["measuring_seconds"]) if tree else cls(is_known=False)


def together(parts: Iterable[Spent]) -> Spent:
    """Return the sum; unknown if any part is."""
    total = Spent()
    for part in parts:
        total.work_seconds += part.work_seconds
        total.measuring_seconds += part.measuring_seconds
        total.is_known = total.is_known and part.is_known
    return total


def keep_spent(piece_folder: Path, spent: Spent) -> None:
    """Write the seconds of a cached result into its folder; outputs must leave the file `SECONDS` out."""
    write_json(piece_folder / SECONDS, spent.tree())


def load_spent(piece_folder: Path) -> Spent:
    """Return the seconds of a cached result; unknown if an earlier version made it."""
    path = piece_folder / SECONDS
    return Spent.of(read_json(path) if path.is_file() else None)


def store_spent(work: Path, spent: Mapping[str, Spent]) -> None:
    """Store the seconds of each result of a stage for `costs/<stage>.json`.

    Args:
        work: The stage's folder in the work store.
        spent: Seconds by the name of a result in the output.
    """
    figures = {
        "spent_seconds": {name: _rounded(result, result.work_seconds) for name, result in spent.items()},
        "measuring_seconds": {
            name: _rounded(result, result.measuring_seconds) for name, result in spent.items()
        },
    }
    write_json(work / SPENT, figures)


def spent_figures(work: Path) -> dict[str, dict[str, float | None]]:
    """Return the seconds that this run of a stage stored; None if unknown."""
    path = work / SPENT
    figures: dict[str, dict[str, float | None]] = read_json(path) if path.is_file() else {}
    return {"spent_seconds": {}, "measuring_seconds": {}, **figures}


def _rounded(spent: Spent, seconds: float) -> float | None:
    return round(seconds, DIGITS) if spent.is_known else None


class Costs:
    """Measures the costs of a run, from its construction to `write`."""

    def __init__(self) -> None:
        self._start_seconds = time.monotonic()

    def write(self, layout: Layout, stage: str) -> None:
        """Write `costs/<stage>.json`."""
        seconds = time.monotonic() - self._start_seconds
        usage, child_usage = (
            resource.getrusage(resource.RUSAGE_SELF),
            resource.getrusage(resource.RUSAGE_CHILDREN),
        )
        peak = max(usage.ru_maxrss, child_usage.ru_maxrss) * (KIBIBYTE if sys.platform == "linux" else 1)
        write_json(
            layout.costs(stage),
            {
                "seconds": round(seconds, 2),
                "cpu_seconds": round(
                    usage.ru_utime + usage.ru_stime + child_usage.ru_utime + child_usage.ru_stime, 2
                ),
                "peak_memory_bytes": peak,
                "artifact_bytes": _bytes_below(layout.artifact(stage)),
                "rows_in_per_second": round(_rows_in(layout, stage) / max(seconds, 1e-9), 2),
                "worked": worked(layout.work(stage)),
                **spent_figures(layout.work(stage)),
                "manifest_sha256": manifest_sha256(layout, stage),
                "cores": os.cpu_count(),
                **_numeric_setup(),
                "machine": platform.machine(),
                "torch": version("torch"),
            },
        )


def manifest_sha256(layout: Layout, stage: str) -> str | None:
    """Return the hash of a stage's manifest; it tells whether DVC has replaced the output since its costs."""
    path = layout.artifact(stage) / MANIFEST
    return sha256_of(path) if path.is_file() else None


def _numeric_setup() -> dict[str, Any]:
    """Return the set-up that decides the last bits of a result, besides torch's version; None: no torch."""
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
