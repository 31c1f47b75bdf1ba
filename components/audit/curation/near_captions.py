"""Embeddings of captions by an earlier run, to find images whose captions are nearly equal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components.audit.curation.score_table import ImageVectors
from components.errors import ConfigurationError
from components.settings.audit import NearCaptionFilter
from components.storage.embeddings import EMBEDDED_CAPTIONS, lines_of, read_listed
from components.storage.manifest import Entry, read_manifest
from components.storage.side_tables import read_table

if TYPE_CHECKING:
    from torch import Tensor

_MEND = "put the earlier run's folder there again, whole"


def keys_of(vectors: ImageVectors) -> set[str]:
    """Return the images that have a caption, by the tables beside the vectors alone."""
    tables = (read_table(lines_of(vectors.folder, entry), EMBEDDED_CAPTIONS) for entry in vectors.entries)
    return {key for table in tables for key in table["key"].to_pylist()}


def open_caption_vectors(settings: NearCaptionFilter, inputs: Path, work: Path) -> ImageVectors:
    """Open what an earlier run's embed_captions made of each image's first caption of a column.

    Args:
        settings: Say where it is.
        inputs: The folder of inputs.
        work: The stage's folder in the work store, where files of a bucket are for a moment.

    Raises:
        ConfigurationError: it is not there, or has nothing of the column.
        DataError: a file is missing or damaged.
    """
    name, folder = "audit.curation.near_captions", inputs / settings.embeddings
    if not (folder.parent / "manifest.json").is_file():
        raise ConfigurationError(
            f"{name}: {folder.parent} holds no manifest.json; expected an earlier run's "
            f"artifacts/embed_captions, whole, of which {folder.name} is one encoder: put it there"
        )
    below = f"{folder.name}/{settings.column}/"
    entries = [entry for entry in read_manifest(folder.parent, below) if entry.is_vectors]
    if not entries:
        raise ConfigurationError(
            f"{name}: {folder} has no embeddings of column {settings.column}; expected some: name another "
            "column or encoder"
        )
    return ImageVectors(folder.parent, entries, lambda entry: _first_captions(folder.parent, entry, work))


def _first_captions(folder: Path, entry: Entry, work: Path) -> tuple[list[str], Tensor]:
    """Return the keys of a file, and the embedding (n, D) of the caption of each with the lowest number."""
    _, vectors, table = read_listed(folder, entry, EMBEDDED_CAPTIONS, _MEND, work)
    ordered = table.sort_by([("key", "ascending"), ("number", "descending")])
    rows = dict(zip(ordered["key"].to_pylist(), ordered["row"].to_pylist(), strict=True))
    return list(rows), vectors[list(rows.values())]
