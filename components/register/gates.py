"""The gates of a release: figures of evaluate that it must reach."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.faults import ConfigurationFault, GateFault
from components.settings.register import Gate

NEAREST = 3


def check_gates(gates: list[Gate], metrics: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """Return each gate with the figure that was found.

    Args:
        gates: From params.
        metrics: What evaluate measured.
        path: Of the file it stands in, for messages.

    Raises:
        ConfigurationFault: a gate names no figure of evaluate; says which are near.
        GateFault: a figure is below its limit.
    """
    figures = dict(_leaves(metrics))
    checked: list[dict[str, Any]] = []
    for gate in gates:
        figure = figures.get(gate.metric)
        if isinstance(figure, bool) or not isinstance(figure, int | float):
            raise ConfigurationFault(
                f"register.gates: {path} has no figure {gate.metric}; {_near(gate.metric, figures)}"
            )
        checked.append({"metric": gate.metric, "figure": figure, "minimum": gate.minimum})
    below = [gate for gate in checked if gate["figure"] < gate["minimum"]]
    if below:
        more = f" (and {len(below) - 1} more gates)" if len(below) > 1 else ""
        raise GateFault(
            f"{below[0]['metric']} is {below[0]['figure']:g}, register.gates wants at least "
            f"{below[0]['minimum']:g}{more}; nothing was registered: see artifacts/evaluate/report.html"
        )
    return checked


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _near(metric: str, figures: dict[str, Any]) -> str:
    near = difflib.get_close_matches(metric, figures, n=NEAREST, cutoff=0.3)
    return f"near are {', '.join(near)}" if near else "look there for its name"
