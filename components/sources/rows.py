"""The one interface to every kind of source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from components.settings.sources import Scenes, SceneTexts, Source
from components.sources.row import Image, ImageFile, ImageScene, ImageUrl, Rejection, Row
from components.sources.scene_rows import read_scenes
from components.sources.table_rows import read_table_rows

__all__ = ["Image", "ImageFile", "ImageScene", "ImageUrl", "Rejection", "Row", "read_rows"]


def read_rows(source: Source, inputs: Path, seed: int) -> Iterator[Row | Rejection]:
    """Yield a source's rows in their order, one at a time, and a rejection for each input row without one.

    Args:
        source: From params.
        inputs: The folder that the paths in it are relative to.
        seed: Of params; decides the procedural sources.

    Raises:
        ConfigurationFault: the table is missing, or lacks a column that params name.
        DataFault: the table is empty, damaged, or not the one params pin.
    """
    if isinstance(source, Scenes | SceneTexts):
        return read_scenes(source, seed)
    return read_table_rows(source, inputs)
