"""Check the gates of a release: figures of evaluate that it must reach."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.errors import ConfigurationError, GateError
from components.settings.register import Gate

NEAREST = 3


def check_gates(gates: list[Gate], metrics: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """Check the gates; return each gate with its figure.

    Args:
        gates: From params.
        metrics: Metrics of evaluate.
        path: The file with the metrics, for messages.

    Raises:
        ConfigurationError: a gate names no figure of evaluate; the message has the nearest names.
        GateError: a figure is below its limit.
    """
    figures = dict(_leaves(metrics))
    if absent := [gate.metric for gate in gates if not _is_figure(figures.get(gate.metric))]:
        named = "; ".join(f"{metric}; {_nearest_names(metric, figures)}" for metric in absent)
        raise ConfigurationError(f"register.gates: {path} has no figure {named}")
    checked = [
        {"metric": gate.metric, "figure": figures[gate.metric], "minimum": gate.minimum} for gate in gates
    ]
    below = [gate for gate in checked if gate["figure"] < gate["minimum"]]
    if below:
        named = ", ".join(
            f"{gate['metric']} is {gate['figure']:g}, register.gates asks for at least {gate['minimum']:g}"
            for gate in below
        )
        raise GateError(f"{named}; nothing was registered: see artifacts/evaluate/report.html")
    return checked


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _nearest_names(metric: str, figures: dict[str, Any]) -> str:
    names = difflib.get_close_matches(metric, figures, n=NEAREST, cutoff=0.3)
    return f"the nearest are {', '.join(names)}" if names else "look there for its name"
