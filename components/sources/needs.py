"""What a source needs before it can be read: files, or the network."""

from __future__ import annotations

from components.settings.sources import Captioned, Coco, Folder, Karpathy, Source, UrlList


def is_fetched(source: Source) -> bool:
    """Say whether a source's images come over HTTP."""
    if isinstance(source, Coco | Karpathy):
        return source.images is None
    return isinstance(source, UrlList)


def paths_of(source: Source) -> list[str]:
    """Return what must be there before a source can be read, below `inputs/<download.inputs>`."""
    if not isinstance(source, Captioned):
        return []
    images = source.images if isinstance(source, Folder | Coco | Karpathy) else None
    return [source.path, images] if images else [source.path]
