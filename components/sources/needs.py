"""What a source needs before it can be read: files, or the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from components.settings.sources import Captioned, Coco, Folder, Karpathy, Shards, Sidecars, Source, UrlList
from components.storage.atomic import content_key


@dataclass(frozen=True)
class Inputs:
    """Where the files of sources are.

    Attributes:
        folder: The user's.
        brought: Of what came from elsewhere, a folder for each source.
    """

    folder: Path
    brought: Path

    def of(self, source: Source) -> Path:
        """Return the folder that a source's files are in."""
        if is_far(source):
            return self.brought / f"{source.name}-{content_key(source.path)[:16]}"
        return self.folder


def is_far(source: Source | Captioned) -> TypeGuard[Shards]:
    """Say whether a source's files must be brought here before it can be read."""
    return isinstance(source, Shards) and source.is_far


def is_fetched(source: Source) -> bool:
    """Say whether a source's images come over HTTP."""
    if isinstance(source, Coco | Karpathy):
        return source.images is None
    return isinstance(source, UrlList)


def paths_of(source: Source) -> list[str]:
    """Return what must be there before a source can be read, below `inputs/<download.inputs>`."""
    if not isinstance(source, Captioned) or is_far(source):
        return []
    images = None if isinstance(source, Sidecars) else image_folder(source)
    return [source.path, images] if images else [source.path]


def image_folder(source: Source) -> str | None:
    """Return the folder of a source's images, below `inputs/<download.inputs>`; None where there is none."""
    if isinstance(source, Sidecars):
        return source.path
    return source.images if isinstance(source, Folder | Coco | Karpathy) else None
