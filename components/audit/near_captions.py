"""Embeddings of captions by an earlier run, to tell images whose captions say nearly the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.faults import ConfigurationFault
from components.settings.audit import NearCaptionFilter
from components.storage.embeddings import EMBEDDED_CAPTIONS, read_vectors
from components.storage.manifest import Entry, read_manifest
from components.storage.side_tables import read_table

_MEND = "put the earlier run's folder there again, whole"


@dataclass(frozen=True)
class CaptionVectors:
    """The embedding of each image's first caption of one column, read shard by shard; see `ImageVectors`."""

    folder: Path
    entries: list[Entry]
    width: int

    def keys(self) -> set[str]:
        """Return the images that have a caption."""
        return {key for entry in self.entries for key in _first_rows(self._table(entry))}

    def shards(self) -> Iterator[tuple[str, list[str], NDArray[np.float16]]]:
        """Yield each shard's name, keys and embeddings (n, D).

        Raises:
            DataFault: a file is damaged.
        """
        for entry in self.entries:
            _, vectors, table = read_vectors(self.folder / entry.place, EMBEDDED_CAPTIONS, _MEND)
            rows = _first_rows(table)
            yield entry.name, list(rows), vectors.numpy()[list(rows.values())]

    def _table(self, entry: Entry) -> pa.Table:
        return read_table((self.folder / entry.place).with_suffix(".parquet"), EMBEDDED_CAPTIONS)


def open_caption_vectors(settings: NearCaptionFilter, inputs: Path) -> CaptionVectors:
    """Open what an earlier run's embed_captions wrote.

    Args:
        settings: Say where it is.
        inputs: The folder of inputs.

    Raises:
        ConfigurationFault: it is not there, or has nothing of the column.
        DataFault: a file is missing or damaged.
    """
    name, folder = "audit.curation.near_captions", inputs / settings.embeddings
    if not (folder.parent / "manifest.json").is_file():
        raise ConfigurationFault(
            f"{name}: {folder.parent} holds no manifest.json; expected an earlier run's "
            f"artifacts/embed_captions, whole, of which {folder.name} is one encoder: put it there"
        )
    below = f"{folder.name}/{settings.column}/"
    entries = [entry for entry in read_manifest(folder.parent, below) if entry.is_vectors]
    if not entries:
        raise ConfigurationFault(
            f"{name}: {folder} has no embeddings of column {settings.column}; expected some: name another "
            "column or encoder"
        )
    if any(entry.is_remote for entry in entries):
        raise ConfigurationFault(
            f"{name}: the vectors of {folder} are in a bucket; expected files: fetch them into that folder"
        )
    _, first, _ = read_vectors(folder.parent / entries[0].place, EMBEDDED_CAPTIONS, _MEND)
    return CaptionVectors(folder.parent, entries, first.shape[1])


def _first_rows(table: pa.Table) -> dict[str, int]:
    """Return for each key the row of its caption with the lowest number."""
    ordered = table.sort_by([("key", "ascending"), ("number", "descending")])
    return dict(zip(ordered["key"].to_pylist(), ordered["row"].to_pylist(), strict=True))
