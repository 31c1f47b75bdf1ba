"""The paths below `inputs/<download.inputs>` that params name, and whether DVC sees what lies there.

DVC hashes that folder file by file. It follows links to files, and the folder may itself be a link. It passes
over links to folders, wherever they lead, and over folders that are DVC projects of their own: what changes
there would leave every stage as it was (tried with DVC 3.67).
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
    """A path that params name.

    Attributes:
        location: Of the param.
        path: Of a file or folder, or a pattern, below the folder of inputs.
        is_deep: Whether what lies in folders of it is read as well.
    """

    location: Location
    path: str
    is_deep: bool = False


def paths_of_download(section: Download) -> list[InputPath]:
    """Return what the sources read."""
    return _of_sources(("download", "sources"), section.sources)


def models_of(section: BaseModels) -> dict[Location, Llm | Clip]:
    """Return the models that params name, but for the captioner, which needs no files."""
    models: dict[Location, Llm | Clip] = {
        ("base_models", "llm"): section.llm,
        ("base_models", "clip"): section.clip,
    }
    for group in ("vision_language", "text_encoders"):
        for number, model in enumerate(getattr(section, group)):
            models["base_models", group, number, "source"] = model.source
    return models


def paths_of_base_models(section: BaseModels) -> list[InputPath]:
    """Return the texts that models are made from, and the folders of those that are there already."""
    paths: list[InputPath] = []
    for location, model in models_of(section).items():
        if isinstance(model, MadeLlm | MadeClip):
            paths += _of_sources((*location, "texts"), model.texts)
        elif isinstance(model, FolderModel):
            paths.append(InputPath((*location, "path"), model.path, is_deep=True))
    return paths


def paths_of_audit(section: Audit) -> list[InputPath]:
    """Return heads, an earlier run's embeddings of captions, and a reference's summary."""
    at: Location = ("audit", "curation")
    paths = [
        InputPath((*at, "heads", number, "path"), head.path)
        for number, head in enumerate(section.curation.heads)
    ]
    if near := section.curation.near_captions:
        paths.append(InputPath((*at, "near_captions", "embeddings"), near.embeddings, is_deep=True))
    if section.reference:
        paths.append(InputPath(("audit", "reference", "summary"), section.reference.summary))
    return paths


def check_seen_by_dvc(inputs: Path, paths: Iterable[InputPath]) -> None:
    """Check that DVC sees all that lies at some paths; of folders of images, every folder is looked into.

    Raises:
        ConfigurationError: it does not.
    """
    if unseen := unseen_by_dvc(inputs, paths):
        lines = (f"{'.'.join(map(str, location))}: {what}" for location, what in unseen.items())
        raise ConfigurationError("\n".join(lines))


def unseen_by_dvc(inputs: Path, paths: Iterable[InputPath]) -> dict[Location, str]:
    """Return for each path of which DVC does not see all what is wrong, and what to do.

    Args:
        inputs: The folder that the paths are relative to.
        paths: Of params.
    """
    visited: dict[Path, list[Path]] = {}
    found = {named.location: _unseen(inputs, named, visited) for named in paths}
    return {location: _explained(inputs, folders) for location, folders in found.items() if folders}


def _of_sources(location: Location, sources: Iterable[Source | TextSource]) -> list[InputPath]:
    paths: list[InputPath] = []
    for number, source in enumerate(sources):
        if not isinstance(source, Captioned) or is_far(source):
            continue
        paths.append(InputPath((*location, number, "path"), source.path, isinstance(source, Sidecars)))
        if folder := images_folder(source):
            paths.append(InputPath((*location, number, "images"), folder, is_deep=True))
    return paths


def _unseen(inputs: Path, named: InputPath, visited: dict[Path, list[Path]]) -> list[Path]:
    """Return the folders on the way to what a path names, and in it, that DVC passes over."""
    is_pattern = not PATTERN_SIGNS.isdisjoint(named.path) and not (inputs / named.path).exists()
    ends = {match.parent for match in inputs.glob(named.path)} if is_pattern else {inputs / named.path}
    ways = {way for end in ends for way in (end, *end.parents) if way != inputs and inputs in way.parents}
    if unseen := sorted(way for way in ways if _is_unseen(way)):
        return unseen
    if named.is_deep or "**" in named.path:
        parts = takewhile(PATTERN_SIGNS.isdisjoint, named.path.split("/")) if is_pattern else [named.path]
        top = inputs.joinpath(*parts)
        if top not in visited:
            visited[top] = sorted(_unseen_below(top)) if top.is_dir() else []
        return visited[top]
    return []


def _is_unseen(folder: Path) -> bool:
    return folder.is_dir() and (folder.is_symlink() or (folder / ".dvc").is_dir())


def _unseen_below(top: Path) -> Iterator[Path]:
    """Yield the folders below one that DVC passes over; of files nothing but their kind is asked for."""
    left = [top]
    while left:
        folder = left.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in NEVER_READ or not entry.is_dir():
                    continue
                if _is_unseen(Path(entry)):
                    yield Path(entry)
                else:
                    left.append(Path(entry))


def _explained(inputs: Path, folders: list[Path]) -> str:
    first = folders[0]
    more = f" (and {len(folders) - 1} more)" if len(folders) > 1 else ""
    if first.is_symlink():
        return (
            f"{first} is a link to a folder{more}; DVC passes over such links and would not see that data "
            f"behind one has changed: expected the folder itself; move it there, or make {inputs} the link"
        )
    return (
        f"{first} is a DVC project of its own{more}, which DVC passes over: it would not see that data there "
        f"has changed; expected a plain folder: remove {first / '.dvc'}, or copy the data elsewhere"
    )
