"""Whether what params name below `inputs/<download.inputs>` is there, and whether DVC sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import nsmallest
from pathlib import Path

from components.running.problems import Problem
from components.settings.params import Params
from components.sources.files import PATTERN_SIGNS
from components.sources.input_paths import (
    InputPath,
    paths_of_audit,
    paths_of_base_models,
    paths_of_download,
    unseen_by_dvc,
)

SHOWN = 5  # of the names beside one that is missing


def check_paths(params: Params, inputs: Path) -> list[Problem]:
    """Return a problem for each path of params that is missing, or where DVC would not see a change."""
    paths = [
        *paths_of_download(params.download),
        *paths_of_base_models(params.base_models),
        *paths_of_audit(params.audit),
    ]
    unseen = unseen_by_dvc(inputs, paths)
    return [
        *_missing(inputs, paths),
        *(Problem(location, text) for location, text in unseen.items()),
    ]


def _missing(inputs: Path, paths: Sequence[InputPath]) -> Iterator[Problem]:
    for named in paths:
        path = inputs / named.path
        is_pattern = not PATTERN_SIGNS.isdisjoint(named.path)
        if path.exists() or (is_pattern and any(inputs.glob(named.path))):
            continue
        what = f"no file fits {path}" if is_pattern else f"{path} not found"
        yield Problem(named.location, f"{what}; {_beside(inputs, path)}: put it there or correct the path")


def _beside(inputs: Path, path: Path) -> str:
    """Return what the nearest folder on the way to a path holds."""
    folder = next(parent for parent in path.parents if parent.is_dir())
    names = nsmallest(SHOWN, (entry.name for entry in folder.iterdir()))
    return (
        f"{folder if inputs in (folder, *folder.parents) else inputs} holds {', '.join(names) or 'nothing'}"
    )
