"""Print recall at 1 over several seeds as the README's tables.

    python infra/seed_table.py seed7.json seed8.json seed9.json

Each file is a copy of metrics/evaluate.json from a run with another `seed` in params.yaml.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from components.errors import ConfigurationError, PipelineError
from components.storage.atomic import read_json

DIRECTIONS = {"text_to_image": "T→I", "image_to_text": "I→T"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("metrics", nargs="+", type=Path, help="metrics/evaluate.json of one seed each")
    try:
        runs = [read_json(path) for path in parser.parse_args(arguments).metrics]
        sys.stdout.write(f"{seed_table(runs)}\n{difference_table(runs)}")
    except PipelineError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def seed_table(runs: list[dict[str, Any]]) -> str:
    """Return a Markdown table of the median over seeds of each recall in percent, with lowest and highest.

    Args:
        runs: Metrics of evaluate, one for each seed.

    Raises:
        ConfigurationError: the runs differ in arms or tasks.
    """
    shapes = [(list(run["arms"]), list(run["tasks"])) for run in runs]
    if any(shape != shapes[0] for shape in shapes):
        raise ConfigurationError(
            f"the runs have {len(set(map(str, shapes)))} sets of arms and tasks; expected one preset: "
            "take runs that differ in their seed alone"
        )
    arms, tasks = shapes[0]
    columns = [(task, direction) for task in tasks for direction in DIRECTIONS]
    head = ["arm", *(f"{task} {DIRECTIONS[direction]}" for task, direction in columns)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for arm in sorted(arms):
        cells = [
            _cell([run["arms"][arm]["retrieval"][task][direction]["recall_at_1"]["value"] for run in runs])
            for task, direction in columns
        ]
        lines.append(f"| {' | '.join([f'`{arm}`', *cells])} |")
    return "\n".join([*lines, ""])


def difference_table(runs: list[dict[str, Any]]) -> str:
    """Return a Markdown table of the lead of the first arm over each other arm, in points of recall at 1.

    A cell has the median of all seeds' differences, and the lowest lower end of their paired intervals. If
    that is above zero, the first arm is ahead with every seed.

    Args:
        runs: Metrics of evaluate, one for each seed.

    Raises:
        ConfigurationError: the runs differ in arms or tasks.
    """
    (subject,) = _shared([list(run["differences"]) for run in runs])
    controls = _shared([sorted(run["differences"][subject]) for run in runs])
    columns = [(task, direction) for task in runs[0]["tasks"] for direction in DIRECTIONS]
    head = [f"`{subject}` less", *(f"{task} {DIRECTIONS[direction]}" for task, direction in columns)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for control in controls:
        cells = []
        for task, direction in columns:
            intervals = [run["differences"][subject][control][task][direction] for run in runs]
            median_difference = median(interval["value"] for interval in intervals)
            lowest = min(interval["low"] for interval in intervals)
            cells.append(f"{100 * median_difference:+.1f} ({100 * lowest:+.1f})")
        lines.append(f"| {' | '.join([f'`{control}`', *cells])} |")
    return "\n".join([*lines, ""])


def _shared(names: list[list[str]]) -> list[str]:
    if any(run_names != names[0] for run_names in names):
        raise ConfigurationError(
            f"the runs compare {len(set(map(str, names)))} sets of arms; expected one preset: take runs that "
            "differ in their seed alone"
        )
    return names[0]


def _cell(shares: list[float]) -> str:
    low, middle, high = (f"{100 * share:.1f}" for share in (min(shares), median(shares), max(shares)))
    return f"{middle} ({low}–{high})"


if __name__ == "__main__":
    sys.exit(main())
