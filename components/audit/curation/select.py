"""Drop images by linear heads, similarity, near images or near captions, each for one reason."""

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
    """Drop images filter by filter; later filters skip images that are already dropped.

    Args:
        images: All images of download.
        leaked: Row numbers of images that are also test images, each with the row of the test image.
    """

    def __init__(self, images: AuditImages, leaked: Mapping[int, int]) -> None:
        self._images = images
        self.dropped = Dropped(images)
        self.dropped.add(list(leaked), "leaked", likes=list(leaked.values()))

    def curate(self, settings: Curation, score_table: ScoreTable, layout: Layout, inputs: Path) -> None:
        """Apply heads, similarity, near images and near captions in this order, as far as params enable them.

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
            self._apply_similarity(settings.similarity, score_table)
        work = layout.work("audit")
        if settings.near_images:
            self._apply_near("near_image", settings.near_images, vectors, self._remaining("train"), work)
        if caption_filter := settings.near_captions:
            caption_vectors = open_caption_vectors(caption_filter, inputs, work)
            keys = keys_of(caption_vectors)
            rows = [row for row in self._remaining("train").tolist() if self._images.key(row) in keys]
            self._apply_near("near_caption", caption_filter, caption_vectors, np.array(rows, np.int64), work)

    def _remaining(self, *splits: str) -> NDArray[np.int64]:
        return np.flatnonzero(self._images.are(*splits) & ~self.dropped.rows)

    def _apply_head(self, head: Head, vectors: ImageVectors, inputs: Path) -> None:
        scores, is_known = self._head_scores(head, inputs, vectors)
        rows = self._remaining(*head.splits)
        if not is_known[rows].all():
            key = self._images.key(int(rows[np.argmin(is_known[rows])]))
            raise DataError(
                f"{vectors.folder} has no embedding of {key}; expected one of each image; "
                "run `llm2clip forget recaption image_embeddings` to compute them again"
            )
        row_scores = scores[rows]
        is_kept = row_scores >= head.limit if head.keeps == "at_least" else row_scores <= head.limit
        self.dropped.add(rows[~is_kept], head.name, row_scores[~is_kept])

    def _head_scores(
        self, head: Head, inputs: Path, vectors: ImageVectors
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return (N,) the score of each image, and whether it has one."""
        import torch  # slow to import, and few audits need it

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
            is_found = rows >= 0
            scores[rows[is_found]] = linear.scores(torch.from_numpy(embeddings)).numpy()[is_found]
            is_known[rows[is_found]] = True
        return scores, is_known

    def _apply_similarity(self, settings: SimilarityFilter, score_table: ScoreTable) -> None:
        best = _best_similarity(settings.columns, score_table)
        rows = self._remaining("train")
        known = rows[np.isfinite(best[rows])]
        if len(rows) and not len(known):
            raise DataError(
                f"audit.curation.similarity: none of {len(rows)} train images has a similarity of columns "
                f"{', '.join(settings.columns)}; expected some; check recaption.scores"
            )
        self.dropped.add(rows[~np.isfinite(best[rows])], "no_similarity")
        rejected = _below_similarity(known, best, self._images, settings)
        self.dropped.add(rejected, "similarity", best[rejected])

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
                f"{settings.max_rows} images; raise it, or let heads and similarity drop more"
            )
        row_of = {self._images.key(row): row for row in rows.tolist()}
        progress = Progress(work, f"audit {name.replace('_', ' ')}", len(rows), "images")
        code = code_of(work, "audit", "near_images")
        near_by_key = near_images(
            list(row_of), vectors, settings.min_cosine, work / name, code, progress.advance
        )
        self.dropped.add(
            [row_of[key] for key in near_by_key],
            reason,
            [near.cosine for near in near_by_key.values()],
            [row_of[near.like] for near in near_by_key.values()],
        )


def _below_similarity(
    rows: NDArray[np.int64], best: NDArray[np.float32], images: AuditImages, settings: SimilarityFilter
) -> NDArray[np.int64]:
    """Return the rows below the limit or outside the best share; among equal rows the first key wins."""
    if settings.min_similarity is not None:
        return rows[best[rows] < settings.min_similarity]
    count = round((settings.best_share or 0.0) * len(rows))
    ranked = rows[np.argsort(-best[rows], kind="stable")]
    if not 0 < count < len(ranked):
        return ranked[count:]
    ranked_scores, limit = best[ranked], best[ranked[count - 1]]
    ties = sorted(ranked[ranked_scores == limit].tolist(), key=images.key)
    kept_ties = count - int(np.count_nonzero(ranked_scores > limit))
    return np.concatenate([np.array(ties[kept_ties:], np.int64), ranked[ranked_scores < limit]])


def _best_similarity(columns: list[str], score_table: ScoreTable) -> NDArray[np.float32]:
    if absent := sorted(set(columns) - score_table.similarity.keys()):
        columns_with_scores = ", ".join(sorted(score_table.similarity)) or "none"
        raise ConfigurationError(
            f"audit.curation.similarity names column {', '.join(absent)}, which has no similarity; "
            f"there are {columns_with_scores}; correct it, or recaption.scores"
        )
    best: NDArray[np.float32] = np.fmax.reduce([score_table.similarity[column] for column in columns])
    return best


_FIX = "restore the complete folder of the earlier run"


def keys_of(vectors: ImageVectors) -> set[str]:
    """Return the keys of images that have a caption; reads only the tables beside the vectors."""
    tables = (read_table(lines_of(vectors.folder, entry), EMBEDDED_CAPTIONS) for entry in vectors.entries)
    return {key for table in tables for key in table["key"].to_pylist()}


def open_caption_vectors(settings: NearCaptionFilter, inputs: Path, work: Path) -> ImageVectors:
    """Open an earlier run's embeddings of each image's first caption of a column.

    Args:
        settings: Location and column, from params.
        inputs: The folder of inputs.
        work: The stage's folder in the work store, for temporary copies of files in a bucket.

    Raises:
        ConfigurationError: the embeddings are missing, or there are none of the column.
        DataError: a file is missing or damaged.
    """
    name, folder = "audit.curation.near_captions", inputs / settings.embeddings
    if not (folder.parent / "manifest.json").is_file():
        raise ConfigurationError(
            f"{name}: {folder.parent} holds no manifest.json; expected an earlier run's "
            f"complete artifacts/embed_captions with encoder {folder.name}; put it there"
        )
    below = f"{folder.name}/{settings.column}/"
    entries = [entry for entry in read_manifest(folder.parent, below) if entry.is_vectors]
    if not entries:
        raise ConfigurationError(
            f"{name}: {folder} has no embeddings of column {settings.column}; expected some; name another "
            "column or encoder"
        )
    return ImageVectors(folder.parent, entries, lambda entry: _first_captions(folder.parent, entry, work))


def _first_captions(folder: Path, entry: Entry, work: Path) -> tuple[list[str], Tensor]:
    """Return the keys of a file, and for each key the embedding (n, D) of its lowest-numbered caption."""
    _, vectors, table = read_listed(folder, entry, EMBEDDED_CAPTIONS, _FIX, work)
    ordered = table.sort_by([("key", "ascending"), ("number", "descending")])
    rows = dict(zip(ordered["key"].to_pylist(), ordered["row"].to_pylist(), strict=True))
    return list(rows), vectors[list(rows.values())]
