"""Scores and embeddings written by recaption: scores as arrays over all images, embeddings by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.audit.images import AuditImages
from components.errors import ConfigurationError, DataError
from components.storage.manifest import Entry, read_manifest
from components.storage.scores import IMAGES_FOLDER, SCORES_FOLDER, read_image_embeddings, read_scores

if TYPE_CHECKING:
    from torch import Tensor

Scores = dict[str, NDArray[np.float32]]
_FIX = "run `llm2clip forget recaption scores`"


@dataclass(frozen=True)
class ScoreTable:
    """Scores by column: (N,) the score of each image's best caption of a column, NaN without one.

    Attributes:
        similarity: Similarity to the image under the base CLIP.
        agreement: Agreement with the captions of other writers.
    """

    similarity: Scores
    agreement: Scores


def read_scored(recaption: Path, images: AuditImages) -> ScoreTable:
    """Read all scores; the result is empty if params of recaption switch them off.

    Args:
        recaption: Folder of the artifact of recaption.
        images: All images.

    Raises:
        DataError: a file is missing or damaged, or scores an image that its shard does not have.
    """
    score_table = ScoreTable({}, {})
    for entry in read_manifest(recaption, f"{SCORES_FOLDER}/"):
        table = read_scores(recaption / entry.uri)
        rows = images.find(entry.name, table["key"])
        if (rows < 0).any():
            key = table["key"][int(np.argmin(rows))].as_py()
            raise DataError(
                f"{recaption / entry.uri} scores {key}, which is no image of that shard of download; {_FIX}"
            )
        columns = np.array(table["column"].to_pylist(), dtype=object)
        for name, scores in (("similarity", score_table.similarity), ("agreement", score_table.agreement)):
            values = table[name].to_numpy().astype(np.float32)
            for column in sorted(set(columns[~np.isnan(values)])):
                best = scores.setdefault(column, np.full(len(images), np.nan, np.float32))
                in_column = columns == column
                np.fmax.at(best, rows[in_column], values[in_column])
    return score_table


@dataclass(frozen=True)
class ImageVectors:
    """One embedding per image of all shards, read shard by shard.

    Attributes:
        folder: Folder of the manifest that lists the files.
        entries: Manifest entries of the files.
        read: Function that returns the keys and embeddings (n, D) of a file.
    """

    folder: Path
    entries: list[Entry]
    read: Callable[[Entry], tuple[list[str], Tensor]]

    @cached_property
    def width(self) -> int:
        """Width D of an embedding.

        Raises:
            DataError: the first file is damaged.
        """
        return self.read(self.entries[0])[1].shape[1]

    def shards(self) -> Iterator[tuple[str, list[str], NDArray[np.float16]]]:
        """Yield each shard's name, keys and embeddings (n, D).

        Raises:
            DataError: a file is damaged.
        """
        for entry in self.entries:
            keys, vectors = self.read(entry)
            yield entry.name, keys, vectors.numpy()


def open_vectors(recaption: Path) -> ImageVectors:
    """Open the image embeddings written by recaption.

    Raises:
        ConfigurationError: recaption wrote none.
        DataError: a file is missing or damaged.
    """
    entries = [entry for entry in read_manifest(recaption, f"{IMAGES_FOLDER}/") if entry.is_vectors]
    if not entries:
        raise ConfigurationError(
            f"{recaption} has no image embeddings and audit.curation asks for them; expected some; set "
            "recaption.scores and run `dvc repro recaption`"
        )
    return ImageVectors(recaption, entries, lambda entry: read_image_embeddings(recaption / entry.uri))
