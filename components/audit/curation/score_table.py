"""The scores that recaption wrote, as arrays over all images."""

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
_MEND = "run `llm2clip forget recaption scores`"


@dataclass(frozen=True)
class ScoreTable:
    """By column: (N,) the score of each image's best caption of it, NaN without one.

    Attributes:
        similarity: To the image under the base CLIP.
        agreement: With other writers' captions.
    """

    similarity: Scores
    agreement: Scores


def read_scored(recaption: Path, images: AuditImages) -> ScoreTable:
    """Read all scores; there are none where params of recaption switch them off.

    Args:
        recaption: The artifact.
        images: All.

    Raises:
        DataError: a file is missing or damaged, or scores an image that its shard does not have.
    """
    scored = ScoreTable({}, {})
    for entry in read_manifest(recaption, f"{SCORES_FOLDER}/"):
        table = read_scores(recaption / entry.uri)
        rows = images.find(entry.name, table["key"])
        if (rows < 0).any():
            key = table["key"][int(np.argmin(rows))].as_py()
            raise DataError(
                f"{recaption / entry.uri} scores {key}, which is no image of that shard of download; {_MEND}"
            )
        columns = np.array(table["column"].to_pylist(), dtype=object)
        for name, scores in (("similarity", scored.similarity), ("agreement", scored.agreement)):
            values = table[name].to_numpy().astype(np.float32)
            for column in sorted(set(columns[~np.isnan(values)])):
                best = scores.setdefault(column, np.full(len(images), np.nan, np.float32))
                of_column = columns == column
                np.fmax.at(best, rows[of_column], values[of_column])
    return scored


@dataclass(frozen=True)
class ImageVectors:
    """Embeddings by image of all shards, read shard by shard.

    Attributes:
        folder: Of the manifest that lists them.
        entries: Their files.
        read: Returns the keys and embeddings (n, D) of a file.
    """

    folder: Path
    entries: list[Entry]
    read: Callable[[Entry], tuple[list[str], Tensor]]

    @cached_property
    def width(self) -> int:
        """Numbers of one.

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
    """Open what recaption wrote.

    Raises:
        ConfigurationError: it wrote none.
        DataError: a file is missing or damaged.
    """
    entries = [entry for entry in read_manifest(recaption, f"{IMAGES_FOLDER}/") if entry.is_vectors]
    if not entries:
        raise ConfigurationError(
            f"{recaption} has no image embeddings and audit.curation asks for them; expected some: set "
            "recaption.scores and run `dvc repro recaption`"
        )
    return ImageVectors(recaption, entries, lambda entry: read_image_embeddings(recaption / entry.uri))
