"""What a source needs before it can be read: local files, remote shards, or HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from components.settings.sources import Captioned, Coco, Folder, Karpathy, Shards, Source, TextSource, UrlList
from components.storage.atomic import content_key


@dataclass(frozen=True)
class Inputs:
    """Folders that the files of sources are in.

    Attributes:
        folder: The user's input folder.
        brought: The folder of downloaded shards, with one folder for each source.
    """

    folder: Path
    brought: Path

    def of(self, source: Source) -> Path:
        """Return the folder that a source's files are in."""
        if is_far(source):
            return self.brought / f"{source.name}-{content_key(source.path)[:16]}"
        return self.folder


def is_far(source: Source | Captioned) -> TypeGuard[Shards]:
    """Return whether a source's shards are remote and must be downloaded before it can be read."""
    return isinstance(source, Shards) and source.is_far


def is_fetched(source: Source) -> bool:
    """Return whether a source's images are fetched over HTTP."""
    if isinstance(source, Coco):
        return source.url_field is not None
    if isinstance(source, Karpathy):
        return source.url_prefix is not None
    return isinstance(source, UrlList)


def images_folder(source: Source | TextSource) -> str | None:
    """Return the folder that a source's image names are relative to; None if the images are not files."""
    if isinstance(source, Folder | Coco | Karpathy) and not is_fetched(source):
        return source.images or "."
    return None
