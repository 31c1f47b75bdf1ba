"""Drop images by heads, similarity, near images or near captions, each for one reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.audit.curation.dropped import Dropped
from components.audit.curation.near_images import near_images
from components.audit.curation.score_table import ImageVectors, ScoreTable, open_vectors
from components.audit.images import AuditImages
from components.errors import ConfigurationError, DataError
from components.running.progress import Progress
from components.settings.audit import Curation, Head, NearCaptionFilter, NearImageFilter, SimilarityFilter
from components.storage.computed import code_of
from components.storage.embeddings import EMBEDDED_CAPTIONS, lines_of, read_listed
from components.storage.layout import Layout
from components.storage.manifest import Entry, read_manifest
from components.storage.side_tables import read_table

if TYPE_CHECKING:
    from torch import Tensor


class Curator:
    """Drops images filter by filter; an image that is dropped is not looked at again.

    Args:
        images: All that download kept.
        leaked: Row numbers of images that are also test images, with that of the test image.
    """

    def __init__(self, images: AuditImages, leaked: Mapping[int, int]) -> None:
        self._images = images
        self.dropped = Dropped(images)
        self.dropped.add(list(leaked), "leaked", likes=list(leaked.values()))

    def curate(self, settings: Curation, scored: ScoreTable, layout: Layout, inputs: Path) -> None:
        """Apply heads, similarity, near images and near captions, in this order, where params ask for them.

        Raises:
            ConfigurationError: a head does not fit, a column has no similarity, recaption wrote no scores, or
                more images than params allow would be compared with each other.
            DataError: a file is missing or damaged.
        """
        if settings.heads or settings.near_images:
            vectors = open_vectors(layout.artifact("recaption"))
            for head in settings.heads:
                self._apply_head(head, vectors, inputs)
        if settings.similarity:
            self._apply_similarity(settings.similarity, scored)
        work = layout.work("audit")
        if settings.near_images:
            self._apply_near("near_image", settings.near_images, vectors, self._left("train"), work)
        if of_captions := settings.near_captions:
            earlier = open_caption_vectors(of_captions, inputs, work)
            there = keys_of(earlier)
            rows = [row for row in self._left("train").tolist() if self._images.key(row) in there]
            self._apply_near("near_caption", of_captions, earlier, np.array(rows, np.int64), work)

    def _left(self, *splits: str) -> NDArray[np.int64]:
        return np.flatnonzero(self._images.are(*splits) & ~self.dropped.rows)

    def _apply_head(self, head: Head, vectors: ImageVectors, inputs: Path) -> None:
        scores, is_known = self._head_scores(head, inputs, vectors)
        rows = self._left(*head.splits)
        if not is_known[rows].all():
            key = self._images.key(int(rows[np.argmin(is_known[rows])]))
            raise DataError(
                f"{vectors.folder} has no embedding of {key}; expected one of each image: "
                "`llm2clip forget recaption image_embeddings` has them made again"
            )
        of_rows = scores[rows]
        is_kept = of_rows >= head.limit if head.keeps == "at_least" else of_rows <= head.limit
        self.dropped.add(rows[~is_kept], head.name, of_rows[~is_kept])

    def _head_scores(
        self, head: Head, inputs: Path, vectors: ImageVectors
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return (N,) the score of each image, and whether it has one."""
        import torch  # which few audits need

        from components.ml.vision.linear_head import load_linear_head

        path = inputs / head.path
        if not path.is_file():
            raise ConfigurationError(f"audit.curation.heads {head.name}: {path} not found; put it there")
        try:
            linear = load_linear_head(path, vectors.width)
        except ValueError as error:
            raise ConfigurationError(f"audit.curation.heads {head.name}: {error}") from None
        scores, is_known = np.zeros(len(self._images)), np.zeros(len(self._images), bool)
        for shard, keys, embeddings in vectors.shards():
            rows = self._images.find(shard, pa.chunked_array([keys], pa.string()))
            here = rows >= 0
            scores[rows[here]] = linear.scores(torch.from_numpy(embeddings)).numpy()[here]
            is_known[rows[here]] = True
        return scores, is_known

    def _apply_similarity(self, settings: SimilarityFilter, scored: ScoreTable) -> None:
        best = _best_similarity(settings.columns, scored)
        rows = self._left("train")
        known = rows[np.isfinite(best[rows])]
        if len(rows) and not len(known):
            raise DataError(
                f"audit.curation.similarity: none of {len(rows)} train images has a similarity of columns "
                f"{', '.join(settings.columns)}; expected some: see recaption.scores"
            )
        self.dropped.add(rows[~np.isfinite(best[rows])], "no_similarity")
        unlike = _too_unlike(known, best, self._images, settings)
        self.dropped.add(unlike, "similarity", best[unlike])

    def _apply_near(
        self,
        reason: str,
        settings: NearImageFilter,
        vectors: ImageVectors,
        rows: NDArray[np.int64],
        work: Path,
    ) -> None:
        name = f"{reason}s"
        if len(rows) > settings.max_rows:
            raise ConfigurationError(
                f"audit.curation.{name} would compare {len(rows)} train images with each other, "
                f"{len(rows) ** 2 / 2:.1e} pairs; audit.curation.{name}.max_rows allows "
                f"{settings.max_rows} images: raise it, or have heads and similarity leave fewer"
            )
        row_of = {self._images.key(row): row for row in rows.tolist()}
        progress = Progress(work, f"audit {name.replace('_', ' ')}", len(rows), "images")
        code = code_of(work, "audit", "near_images")
        found = near_images(list(row_of), vectors, settings.min_cosine, work / name, code, progress.advance)
        self.dropped.add(
            [row_of[key] for key in found],
            reason,
            [near.cosine for near in found.values()],
            [row_of[near.like] for near in found.values()],
        )


def _too_unlike(
    rows: NDArray[np.int64], best: NDArray[np.float32], images: AuditImages, settings: SimilarityFilter
) -> NDArray[np.int64]:
    """Return the rows below the limit, or those after the best share; of equal rows the first key is best."""
    if settings.min_similarity is not None:
        return rows[best[rows] < settings.min_similarity]
    count = round((settings.best_share or 0.0) * len(rows))
    ranked = rows[np.argsort(-best[rows], kind="stable")]
    if not 0 < count < len(ranked):
        return ranked[count:]
    above, limit = best[ranked], best[ranked[count - 1]]
    equal = sorted(ranked[above == limit].tolist(), key=images.key)
    left = count - int(np.count_nonzero(above > limit))
    return np.concatenate([np.array(equal[left:], np.int64), ranked[above < limit]])


def _best_similarity(columns: list[str], scored: ScoreTable) -> NDArray[np.float32]:
    if absent := sorted(set(columns) - scored.similarity.keys()):
        there = ", ".join(sorted(scored.similarity)) or "none"
        raise ConfigurationError(
            f"audit.curation.similarity names column {', '.join(absent)}, which has no similarity; "
            f"there are {there}: correct it, or recaption.scores"
        )
    best: NDArray[np.float32] = np.fmax.reduce([scored.similarity[column] for column in columns])
    return best


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
