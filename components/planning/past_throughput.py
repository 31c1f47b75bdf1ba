"""Throughput of earlier runs."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from components.storage.atomic import read_json
from components.storage.layout import Layout

MIN_ROWS = 10_000  # of a run of one's own; a shorter one is mostly its start


@dataclass(frozen=True)
class Figure:
    """A number and where it is from."""

    value: float
    origin: str


@dataclass(frozen=True)
class PastRun:
    """What an earlier run of a stage on a machine of this kind left behind."""

    rows: int
    seconds: float
    cpu_seconds: float
    metrics: dict[str, Any]

    @property
    def origin(self) -> str:
        """What a figure of it is printed with."""
        return f"your last run, {self.rows:,} of them"

    @property
    def seconds_per_row(self) -> float:
        """Of wall time."""
        return self.seconds / self.rows

    @property
    def cpu_per_row(self) -> Figure:
        """CPU milliseconds."""
        seconds = self.cpu_seconds / self.rows
        return Figure(1000 * seconds, f"{self.origin}; one that went on from another costs less")


class PastThroughput:
    """The costs and metrics of the user's own runs.

    Args:
        layout: Where they are.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def run(self, stage: str, rows: Callable[[dict[str, Any]], int]) -> PastRun | None:
        """Return the last run of a stage, if it was long enough and on a machine of this kind.

        Args:
            stage: That has run.
            rows: Says of its metrics how many rows it worked on; 0 if they are of other data.
        """
        metrics_path = self.layout.metrics(stage)
        if not metrics_path.is_file():
            return None
        metrics = read_json(metrics_path)
        return self._run(stage, lambda _: rows(metrics), metrics)

    def worked(self, stage: str, rows: Callable[[dict[str, int]], int]) -> PastRun | None:
        """Return the last run of a stage by what it did itself, whatever it found done.

        DVC removes metrics before a stage runs, but no costs: a running stage has these alone.

        Args:
            stage: That has run.
            rows: Says of the units of each finished work (`running.progress.worked`) how many rows they are;
                0 if they are of other data.
        """
        return self._run(stage, lambda costs: rows(costs["worked"]), {})

    def _run(
        self, stage: str, rows: Callable[[dict[str, Any]], int], metrics: dict[str, Any]
    ) -> PastRun | None:
        path = self.layout.costs(stage)
        if not path.is_file():
            return None
        costs = read_json(path)
        try:
            count = rows(costs)
            if count < MIN_ROWS or costs["machine"] != platform.machine():
                return None
            return PastRun(count, costs["seconds"], costs["cpu_seconds"], metrics)
        except KeyError:  # of another version
            return None
