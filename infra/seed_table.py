"""Print recall over several seeds as the README's tables.

    python infra/seed_table.py seed7.json seed8.json seed9.json
    python infra/seed_table.py --recall-at 10 --mean seed7.json seed8.json seed9.json

Each file is a copy of metrics/evaluate.json from a run with another `seed` in params.yaml. How far the first
arm is ahead of the others is measured at 1 alone, and printed for it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from components.errors import ConfigurationError, PipelineError
from components.storage.atomic import read_json

DIRECTIONS = {"text_to_image": "T→I", "image_to_text": "I→T"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("metrics", nargs="+", type=Path, help="metrics/evaluate.json of one seed each")
    parser.add_argument("--recall-at", type=int, default=1, help="among so many first ones; default: 1")
    parser.add_argument("--mean", action="store_true", help="the seeds' mean instead of the middle one")
    options = parser.parse_args(arguments)
    try:
        runs = [read_json(path) for path in options.metrics]
        sys.stdout.write(seed_table(runs, options.recall_at, fmean if options.mean else median))
        if options.recall_at == 1:
            sys.stdout.write(f"\n{difference_table(runs)}")
    except PipelineError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def seed_table(
    runs: list[dict[str, Any]], recall_at: int = 1, middle: Callable[[list[float]], float] = median
) -> str:
    """Return a Markdown table of one figure for all seeds' recalls in percent, with lowest and highest.

    Args:
        runs: What evaluate measured, one entry for each seed.
        recall_at: Among so many first ones.
        middle: Which figure.

    Raises:
        ConfigurationError: the runs have other arms or tasks, or no such recall was measured.
    """
    shapes = [(list(run["arms"]), list(run["tasks"])) for run in runs]
    if any(shape != shapes[0] for shape in shapes):
        raise ConfigurationError(
            f"the runs have {len(set(map(str, shapes)))} sets of arms and tasks; expected one preset: "
            "take runs that differ in their seed alone"
        )
    arms, tasks = shapes[0]
    name = f"recall_at_{recall_at}"
    if not all(name in run["arms"][arms[0]]["retrieval"][tasks[0]]["text_to_image"] for run in runs):
        raise ConfigurationError(f"{name} was not measured; expected one of evaluate.recall_at")
    columns = [(task, direction) for task in tasks for direction in DIRECTIONS]
    head = ["arm", *(f"{task} {DIRECTIONS[direction]}" for task, direction in columns)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for arm in sorted(arms):
        cells = [
            _cell([run["arms"][arm]["retrieval"][task][way][name]["value"] for run in runs], middle)
            for task, way in columns
        ]
        lines.append(f"| {' | '.join([f'`{arm}`', *cells])} |")
    return "\n".join([*lines, ""])


def difference_table(runs: list[dict[str, Any]]) -> str:
    """Return a Markdown table of how far the first arm lies above each other one, in points of recall at 1.

    A cell has the middle one of all seeds' differences and the lowest lower end of their paired intervals:
    above zero, the first arm is ahead with every seed.

    Args:
        runs: What evaluate measured, one entry for each seed.

    Raises:
        ConfigurationError: the runs have other arms or tasks.
    """
    (subject,) = _shared([list(run["differences"]) for run in runs])
    controls = _shared([sorted(run["differences"][subject]) for run in runs])
    columns = [(task, direction) for task in runs[0]["tasks"] for direction in DIRECTIONS]
    head = [f"`{subject}` less", *(f"{task} {DIRECTIONS[direction]}" for task, direction in columns)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for control in controls:
        cells = []
        for task, way in columns:
            found = [run["differences"][subject][control][task][way] for run in runs]
            middle = median(one["value"] for one in found)
            lowest = min(one["low"] for one in found)
            cells.append(f"{100 * middle:+.1f} ({100 * lowest:+.1f})")
        lines.append(f"| {' | '.join([f'`{control}`', *cells])} |")
    return "\n".join([*lines, ""])


def _shared(names: list[list[str]]) -> list[str]:
    if any(of_run != names[0] for of_run in names):
        raise ConfigurationError(
            f"the runs compare {len(set(map(str, names)))} sets of arms; expected one preset: take runs that "
            "differ in their seed alone"
        )
    return names[0]


def _cell(shares: list[float], middle: Callable[[list[float]], float]) -> str:
    low, figure, high = (f"{100 * share:.1f}" for share in (min(shares), middle(shares), max(shares)))
    return f"{figure} ({low}–{high})"


if __name__ == "__main__":
    sys.exit(main())
