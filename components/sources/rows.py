"""Read the rows of any source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from components.settings.sources import (
    Coco,
    Karpathy,
    Scenes,
    SceneTexts,
    Shards,
    Sidecars,
    Source,
)
from components.sources.coco_rows import read_coco
from components.sources.karpathy_rows import read_karpathy
from components.sources.row import Image, ImageFile, ImageMember, ImageScene, ImageUrl, Rejection, Row
from components.sources.scenes.rows import read_scenes
from components.sources.shard_rows import read_shards
from components.sources.sidecar_rows import read_sidecars
from components.sources.table_rows import read_table_rows

__all__ = ["Image", "ImageFile", "ImageMember", "ImageScene", "ImageUrl", "Rejection", "Row", "read_rows"]


def read_rows(source: Source, inputs: Path, seed: int) -> Iterator[Row | Rejection]:
    """Yield a source's rows in their order, one at a time, and a rejection for each input row without one.

    Args:
        source: From params.
        inputs: The folder that the paths in it are relative to.
        seed: Of params; decides the procedural sources.

    Raises:
        ConfigurationError: what params name is missing, or of another kind.
        DataError: it is empty, damaged, or not what params pin.
    """
    match source:
        case Scenes() | SceneTexts():
            return read_scenes(source, seed)
        case Coco():
            return read_coco(source, inputs)
        case Karpathy():
            return read_karpathy(source, inputs)
        case Sidecars():
            return read_sidecars(source, inputs)
        case Shards():
            return read_shards(source, inputs)
        case _:
            return read_table_rows(source, inputs)
