"""Stage graph, read from dvc.yaml alone: which stage reads the outputs of which."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from components.errors import ConfigurationError

Graph = dict[str, frozenset[str]]


def read_graph(path: Path) -> Graph:
    """Return each stage with the stages it reads from, in an order that runs those first.

    Raises:
        ConfigurationError: the file is missing or not YAML, it has no stages, or they form a cycle.
    """
    try:
        stages = YAML(typ="safe").load(path.read_text("utf-8"))["stages"]
    except (OSError, YAMLError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"{path} cannot be read ({reason}); expected DVC's stages") from None
    outs = {name: _paths(stage, "outs", "metrics") for name, stage in stages.items()}
    waiting = {
        name: frozenset(
            other
            for other, written in outs.items()
            if other != name and any(_overlap(read, out) for read in _paths(stage, "deps") for out in written)
        )
        for name, stage in stages.items()
    }
    graph: Graph = {}
    while waiting:
        ready = next((name for name, reads in waiting.items() if reads <= graph.keys()), None)
        if ready is None:
            raise ConfigurationError(f"{path}: {', '.join(waiting)} read each other's outputs in a circle")
        graph[ready] = waiting.pop(ready)
    return graph


def between(graph: Graph, first: str, last: str) -> list[str]:
    """Return the stages from `first` to `last`, both included, in the graph's order.

    Raises:
        ConfigurationError: a stage is unknown, or `first` comes after `last`.
    """
    order = list(graph)
    for name in (first, last):
        if name not in graph:
            raise ConfigurationError(f"no stage {name}; expected one of {', '.join(order)}")
    if order.index(first) > order.index(last):
        raise ConfigurationError(f"first stage {first} comes after last stage {last}; swap them")
    return order[order.index(first) : order.index(last) + 1]


def upstream(graph: Graph, stages: list[str]) -> list[str]:
    """Return the stages that `stages` read from, directly or not, without `stages` themselves, in order."""
    needed = set(stages)
    for name in reversed(graph):
        if name in needed:
            needed |= graph[name]
    return [name for name in graph if name in needed and name not in stages]


def _paths(stage: dict[str, Any], *fields: str) -> list[str]:
    """Return the paths of some fields; an entry is a path, or a mapping of one path to its options."""
    entries = [entry for field in fields for entry in stage.get(field) or []]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def _overlap(read: str, written: str) -> bool:
    read_path, written_path = PurePosixPath(read), PurePosixPath(written)
    return read_path.is_relative_to(written_path) or written_path.is_relative_to(read_path)
