"""Throughput of earlier runs."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from components.storage.atomic import read_json
from components.storage.layout import Layout

MIN_ROWS = 10_000  # of an earlier run; a shorter run is mostly start-up


@dataclass(frozen=True)
class Figure:
    """A number and its origin."""

    value: float
    origin: str


@dataclass(frozen=True)
class PastRun:
    """Costs and metrics of an earlier run of a stage on a machine of this kind."""

    rows: int
    seconds: float
    cpu_seconds: float
    metrics: dict[str, Any]

    @property
    def origin(self) -> str:
        """Origin that is printed with its figures."""
        return f"your last run, {self.rows:,} of them"

    @property
    def seconds_per_row(self) -> float:
        """Wall seconds of a row."""
        return self.seconds / self.rows

    @property
    def cpu_per_row(self) -> Figure:
        """CPU milliseconds of a row."""
        seconds = self.cpu_seconds / self.rows
        return Figure(1000 * seconds, f"{self.origin}; a resumed run costs less")


class PastThroughput:
    """The costs and metrics of the user's own runs.

    Args:
        layout: Layout of the project.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def run(self, stage: str, rows: Callable[[dict[str, Any]], int]) -> PastRun | None:
        """Return the last run of a stage, if it was long enough and on a machine of this kind.

        Args:
            stage: Name of the stage.
            rows: Returns the number of rows from its metrics; 0 if they are of other data.
        """
        metrics_path = self.layout.metrics(stage)
        if not metrics_path.is_file():
            return None
        metrics = read_json(metrics_path)
        return self._run(stage, lambda _: rows(metrics), metrics)

    def worked(self, stage: str, rows: Callable[[dict[str, int]], int]) -> PastRun | None:
        """Return the last run of a stage by the work that it did itself, without results of earlier runs.

        DVC removes the metrics before a stage runs, but not the costs: a running stage has only costs.

        Args:
            stage: Name of the stage.
            rows: Returns the number of rows from the units of each finished work
                (`running.progress.worked`); 0 if they are of other data.
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
        except KeyError:  # costs of another version
            return None
