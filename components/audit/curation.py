"""Which images do not go on, and for which one reason each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.audit.gates import Images
from components.audit.near_images import near_images
from components.audit.scored import ImageVectors, Scored, open_vectors
from components.faults import ConfigurationFault, DataFault
from components.ml.linear_head import LinearHead, load_linear_head
from components.running.progress import Progress
from components.settings.audit import Curation, Head, SimilarityFilter
from components.storage.layout import Layout

DIGITS = 6  # of a figure as it is written; float32 holds no more


@dataclass(frozen=True)
class Drop:
    """Why an image does not go on: the figure that decided and the image it is like, where there are such."""

    reason: str
    value: float | None
    like: str | None


class Curator:
    """Drops images filter by filter; an image that is dropped is not looked at again.

    Args:
        images: All that download kept.
        leaked: Row numbers of images that are also test images, with that of the test image.
    """

    def __init__(self, images: Images, leaked: dict[int, int]) -> None:
        self._images = images
        self.dropped = {row: Drop("leaked", None, images.keys[like]) for row, like in leaked.items()}

    def curate(self, settings: Curation, scored: Scored, layout: Layout, inputs: Path) -> None:
        """Apply heads, similarity and near images, in this order, where params ask for them.

        Raises:
            ConfigurationFault: a head does not fit, a column has no similarity, or recaption wrote no scores.
            DataFault: a file is missing or damaged.
        """
        if settings.heads or settings.near_images:
            vectors = open_vectors(layout.artifact("recaption"))
            for head in settings.heads:
                self._apply_head(head, vectors, inputs)
        if settings.similarity:
            self._apply_similarity(settings.similarity, scored)
        if settings.near_images:
            self._apply_near(settings.near_images.min_cosine, vectors, layout.work("audit"))

    def _left(self, splits: list[str]) -> list[int]:
        rows = enumerate(self._images.splits)
        return [row for row, split in rows if split in splits and row not in self.dropped]

    def _apply_head(self, head: Head, vectors: ImageVectors, inputs: Path) -> None:
        scores = _head_scores(_load(head, inputs, vectors.width), vectors)
        for row in self._left(list(head.splits)):
            score = scores.get(self._images.keys[row])
            if score is None:
                raise DataFault(
                    f"{vectors.folder} has no embedding of {self._images.keys[row]}; expected one of each "
                    "image: run `dvc repro --force recaption`"
                )
            keeps = score >= head.limit if head.keeps == "at_least" else score <= head.limit
            if not keeps:
                self.dropped[row] = Drop(head.name, round(score, DIGITS), None)

    def _apply_similarity(self, settings: SimilarityFilter, scored: Scored) -> None:
        best = _best_similarity(settings.columns, scored)
        rows = self._left(["train"])
        known = [row for row in rows if np.isfinite(best[row])]
        if rows and not known:
            raise DataFault(
                f"audit.curation.similarity: none of {len(rows)} train images has a similarity of columns "
                f"{', '.join(settings.columns)}; expected some: see recaption.scores"
            )
        for row in set(rows) - set(known):
            self.dropped[row] = Drop("no_similarity", None, None)
        for row in _too_unlike(known, best, self._images.keys, settings):
            self.dropped[row] = Drop("similarity", round(float(best[row]), DIGITS), None)

    def _apply_near(self, min_cosine: float, vectors: ImageVectors, work: Path) -> None:
        rows = {self._images.keys[row]: row for row in self._left(["train"])}
        progress = Progress(work, "audit near images", len(rows), "images")
        found = near_images(list(rows), vectors, min_cosine, work / "near_images", progress.advance)
        for key, near in found.items():
            self.dropped[rows[key]] = Drop("near_image", near.cosine, near.like)


def _too_unlike(
    rows: list[int], best: NDArray[np.float32], keys: Sequence[str], settings: SimilarityFilter
) -> list[int]:
    """Return the rows below the limit, or those after the best share; of equal rows the first key is best."""
    if settings.min_similarity is not None:
        return [row for row in rows if best[row] < settings.min_similarity]
    ranked = sorted(rows, key=lambda row: (-best[row], keys[row]))
    return ranked[round((settings.best_share or 0.0) * len(ranked)) :]


def _best_similarity(columns: list[str], scored: Scored) -> NDArray[np.float32]:
    if absent := sorted(set(columns) - scored.similarity.keys()):
        there = ", ".join(sorted(scored.similarity)) or "none"
        raise ConfigurationFault(
            f"audit.curation.similarity names column {absent[0]}, which has no similarity; there are {there}"
            ": correct it, or recaption.scores"
        )
    best: NDArray[np.float32] = np.fmax.reduce([scored.similarity[column] for column in columns])
    return best


def _load(head: Head, inputs: Path, width: int) -> LinearHead:
    path = inputs / head.path
    if not path.is_file():
        raise ConfigurationFault(f"audit.curation.heads {head.name}: {path} not found; put it there")
    try:
        return load_linear_head(path, width)
    except ValueError as error:
        raise ConfigurationFault(f"audit.curation.heads {head.name}: {error}") from None


def _head_scores(head: LinearHead, vectors: ImageVectors) -> dict[str, float]:
    import torch

    return {
        key: score
        for keys, embeddings in vectors.shards()
        for key, score in zip(keys, head.scores(torch.from_numpy(embeddings)).tolist(), strict=True)
    }
