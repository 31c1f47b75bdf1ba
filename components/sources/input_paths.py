"""List the input paths that params name, and check that DVC tracks the files at them.

The paths are below `inputs/<download.inputs>`. DVC hashes that folder file by file. It follows links to
files, and the folder may itself be a link. It skips links to folders, wherever they lead, and folders that
are DVC projects themselves: a change there would rerun no stage (tried with DVC 3.67).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from components.errors import ConfigurationError
from components.settings.audit import Audit
from components.settings.base_models import BaseModels, Clip, FolderModel, Llm, MadeClip, MadeLlm
from components.settings.download import Download
from components.settings.sources import Captioned, Sidecars, Source, TextSource
from components.sources.files import PATTERN_SIGNS
from components.sources.source_requirements import images_folder, is_far

NEVER_READ = frozenset({".git", ".hg", ".dvc"})

Location = tuple[str | int, ...]  # keys of params.yaml, from the section on


@dataclass(frozen=True)
class InputPath:
    """An input path named in params.

    Attributes:
        location: Keys that lead to the param.
        path: A file, a folder or a pattern, below the folder of inputs.
        is_deep: Whether the folders below it are read as well.
    """

    location: Location
    path: str
    is_deep: bool = False


def paths_of_download(section: Download) -> list[InputPath]:
    """Return the input paths of the sources."""
    return _paths_of_sources(("download", "sources"), section.sources)


def models_of(section: BaseModels) -> dict[Location, Llm | Clip]:
    """Return the models that params name, without the captioner, which needs no files."""
    models: dict[Location, Llm | Clip] = {
        ("base_models", "llm"): section.llm,
        ("base_models", "clip"): section.clip,
    }
    for group in ("vision_language", "text_encoders"):
        for number, model in enumerate(getattr(section, group)):
            models["base_models", group, number, "source"] = model.source
    return models


def paths_of_base_models(section: BaseModels) -> list[InputPath]:
    """Return the input paths of base_models: texts to train models on, and folders of existing models."""
    paths: list[InputPath] = []
    for location, model in models_of(section).items():
        if isinstance(model, MadeLlm | MadeClip):
            paths += _paths_of_sources((*location, "texts"), model.texts)
        elif isinstance(model, FolderModel):
            paths.append(InputPath((*location, "path"), model.path, is_deep=True))
    return paths


def paths_of_audit(section: Audit) -> list[InputPath]:
    """Return the input paths of audit: heads, an earlier run's caption embeddings, a reference's summary."""
    curation: Location = ("audit", "curation")
    paths = [
        InputPath((*curation, "heads", number, "path"), head.path)
        for number, head in enumerate(section.curation.heads)
    ]
    if near := section.curation.near_captions:
        paths.append(InputPath((*curation, "near_captions", "embeddings"), near.embeddings, is_deep=True))
    if section.reference:
        paths.append(InputPath(("audit", "reference", "summary"), section.reference.summary))
    return paths


def check_seen_by_dvc(inputs: Path, paths: Iterable[InputPath]) -> None:
    """Check that DVC tracks all files at the paths, in every folder below a folder of images.

    Raises:
        ConfigurationError: DVC skips some of them.
    """
    if problems := unseen_by_dvc(inputs, paths):
        lines = (f"{'.'.join(map(str, location))}: {problem}" for location, problem in problems.items())
        raise ConfigurationError("\n".join(lines))


def unseen_by_dvc(inputs: Path, paths: Iterable[InputPath]) -> dict[Location, str]:
    """Return a message for each path at which DVC skips files: what is wrong, and what to do.

    Args:
        inputs: The folder that the paths are relative to.
        paths: Input paths from params.
    """
    visited: dict[Path, list[Path]] = {}
    skipped = {path.location: _skipped_folders(inputs, path, visited) for path in paths}
    return {location: _message(inputs, folders) for location, folders in skipped.items() if folders}


def _paths_of_sources(location: Location, sources: Iterable[Source | TextSource]) -> list[InputPath]:
    paths: list[InputPath] = []
    for number, source in enumerate(sources):
        if not isinstance(source, Captioned) or is_far(source):
            continue
        paths.append(InputPath((*location, number, "path"), source.path, isinstance(source, Sidecars)))
        if folder := images_folder(source):
            paths.append(InputPath((*location, number, "images"), folder, is_deep=True))
    return paths


def _skipped_folders(inputs: Path, named: InputPath, visited: dict[Path, list[Path]]) -> list[Path]:
    """Return the folders on the way to an input path, and below it, that DVC skips."""
    is_pattern = not PATTERN_SIGNS.isdisjoint(named.path) and not (inputs / named.path).exists()
    ends = {match.parent for match in inputs.glob(named.path)} if is_pattern else {inputs / named.path}
    folders = {
        folder
        for end in ends
        for folder in (end, *end.parents)
        if folder != inputs and inputs in folder.parents
    }
    if skipped := sorted(folder for folder in folders if _is_skipped(folder)):
        return skipped
    if named.is_deep or "**" in named.path:
        parts = takewhile(PATTERN_SIGNS.isdisjoint, named.path.split("/")) if is_pattern else [named.path]
        top = inputs.joinpath(*parts)
        if top not in visited:
            visited[top] = sorted(_skipped_below(top)) if top.is_dir() else []
        return visited[top]
    return []


def _is_skipped(folder: Path) -> bool:
    return folder.is_dir() and (folder.is_symlink() or (folder / ".dvc").is_dir())


def _skipped_below(top: Path) -> Iterator[Path]:
    """Yield the folders below `top` that DVC skips, without a stat of each file."""
    queue = [top]
    while queue:
        folder = queue.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in NEVER_READ or not entry.is_dir():
                    continue
                if _is_skipped(Path(entry)):
                    yield Path(entry)
                else:
                    queue.append(Path(entry))


def _message(inputs: Path, folders: list[Path]) -> str:
    folder = folders[0]
    others = f" (and {len(folders) - 1} more)" if len(folders) > 1 else ""
    if folder.is_symlink():
        return (
            f"{folder} is a link to a folder{others}; DVC skips such links and would not see that data "
            f"behind one has changed: expected the folder itself; move it there, or make {inputs} the link"
        )
    return (
        f"{folder} is a DVC project of its own{others}, which DVC skips: it would not see that data there "
        f"has changed; expected a plain folder: remove {folder / '.dvc'}, or copy the data elsewhere"
    )
