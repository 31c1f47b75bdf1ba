"""Check that paths of params exist below `inputs/<download.inputs>` and that DVC tracks them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import nsmallest
from pathlib import Path, PurePosixPath

from components.cli.problems import Problem, advice, listed
from components.errors import DataError
from components.settings.params import Params
from components.sources.files import PATTERN_SIGNS
from components.sources.input_paths import (
    InputPath,
    paths_of_audit,
    paths_of_base_models,
    paths_of_download,
    unseen_by_dvc,
)
from components.storage.layout import MANIFEST
from components.storage.manifest import listed as listed_files

SHOWN = 5  # names listed beside a missing one


def check_paths(params: Params, inputs: Path) -> list[Problem]:
    """Return a problem for each path of params that is missing or whose changes DVC would not see."""
    paths = [
        *paths_of_download(params.download),
        *paths_of_base_models(params.base_models),
        *paths_of_audit(params.audit),
    ]
    unseen = unseen_by_dvc(inputs, paths)
    return [
        *_missing(inputs, paths),
        *(Problem(location, text) for location, text in unseen.items()),
        *_earlier_captions(params, inputs),
    ]


def is_there(inputs: Path, path: str) -> bool:
    """Return True if a path of params, which may be a pattern, names a file or folder."""
    is_pattern = not PATTERN_SIGNS.isdisjoint(path)
    return (inputs / path).exists() or (is_pattern and any(inputs.glob(path)))


def _missing(inputs: Path, paths: Sequence[InputPath]) -> Iterator[Problem]:
    for input_path in paths:
        if is_there(inputs, input_path.path):
            continue
        path = inputs / input_path.path
        message = f"{path} not found" if PATTERN_SIGNS.isdisjoint(input_path.path) else f"no file fits {path}"
        yield Problem(
            input_path.location,
            f"{message}; {_nearest_folder(inputs, path)}: put it there or fix the path",
        )


def _earlier_captions(params: Params, inputs: Path) -> Iterator[Problem]:
    """Yield what is wrong with the caption embeddings of an earlier run, if they exist."""
    location = ("audit", "curation", "near_captions")
    near = params.audit.curation.near_captions
    if near is None or not (inputs / near.embeddings).is_dir():
        return
    folder = inputs / near.embeddings
    try:
        paths = [PurePosixPath(entry.path).parts for entry in listed_files(folder.parent) if entry.is_vectors]
    except (DataError, OSError, ValueError):
        yield Problem(
            (*location, "embeddings"),
            f"{folder.parent} holds no {MANIFEST} that can be read; expected an earlier run's "
            f"artifacts/embed_captions, whole, of which {folder.name} is one encoder: put it there",
        )
        return
    columns = {parts[1] for parts in paths if parts[0] == folder.name and len(parts) > 2}
    if near.column not in columns:
        yield Problem(
            (*location, "column"),
            f"{folder} has no embeddings of column {near.column}; there are {listed(columns)}: "
            f"{advice(near.column, columns)}",
        )


def _nearest_folder(inputs: Path, path: Path) -> str:
    """Return what the nearest existing parent folder of a path holds."""
    folder = next(parent for parent in path.parents if parent.is_dir())
    names = nsmallest(SHOWN, (entry.name for entry in folder.iterdir()))
    return (
        f"{folder if inputs in (folder, *folder.parents) else inputs} holds {', '.join(names) or 'nothing'}"
    )
