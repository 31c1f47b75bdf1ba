"""Score captions: similarity to the image under the base CLIP, and agreement between writers.

Image embeddings and the similarities of each column are cached: after a new captioner is added, only its own
captions are scored, and no image is decoded again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from components.errors import ConfigurationError
from components.ml.text.lexical import word_counts, word_overlap
from components.recaption.scores.base_clip import BaseClip
from components.running.workers import usable_cores
from components.settings.environment import Environment
from components.settings.recaption import Scores
from components.storage.atomic import content_key, read_json, write_json
from components.storage.computed import code_of
from components.storage.layout import Layout
from components.storage.manifest import Entry
from components.storage.result_cache import get_or_build, put_files
from components.storage.scores import (
    EMBEDDED_IMAGES,
    IMAGES_FOLDER,
    SCORES,
    SCORES_FOLDER,
    read_image_embeddings,
    write_image_embeddings,
)
from components.storage.shards import image_key
from components.storage.side_tables import Caption, read_table, write_table

if TYPE_CHECKING:
    from components.recaption.shard import RecaptionShard


Counted = tuple[Caption, Counter[str]]
SIMILARITIES = pa.schema([field for field in SCORES if field.name != "agreement"])
TABLE, FIGURES = "similarities.parquet", "figures.json"


@dataclass
class Mean:
    """A running mean."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """Add a number."""
        self.total += value
        self.count += 1

    def value(self) -> float | None:
        """Return the mean; None without numbers."""
        return round(self.total / self.count, 6) if self.count else None


class Agreement:
    """Mean word overlap by pair of columns, added shard by shard, between captions of one language."""

    def __init__(self) -> None:
        self._same: dict[str, Mean] = defaultdict(Mean)
        self._chance: dict[str, Mean] = defaultdict(Mean)

    def add(self, captions: Sequence[Caption]) -> dict[tuple[str, str, int], float]:
        """Add a shard's captions.

        Returns:
            The mean overlap with other writers' captions of the image, by key, column and number.
        """
        by_key: dict[str, list[Counted]] = defaultdict(list)
        for caption in captions:
            by_key[caption.key].append((caption, word_counts(caption.text)))
        overlaps_by_caption: dict[tuple[str, str, int], list[float]] = defaultdict(list)
        for image_captions in by_key.values():
            for first, second, overlap in _overlaps(combinations(image_captions, 2)):
                self._same[_pair(first, second)].add(overlap)
                for caption in (first, second):
                    overlaps_by_caption[caption.key, caption.column, caption.number].append(overlap)
        rows = list(by_key.values())
        for row, following in zip(rows, rows[1:], strict=False):
            for first, second, overlap in _overlaps(product(row, following)):
                self._chance[_pair(first, second)].add(overlap)
        return {caption: sum(overlaps) / len(overlaps) for caption, overlaps in overlaps_by_caption.items()}

    def figures(self) -> dict[str, Any]:
        """Return by pair of columns the mean overlap, and as chance level that of neighbouring images."""
        return {
            pair: {"pairs": same.count, "mean": same.value(), "chance": self._chance[pair].value()}
            for pair, same in sorted(self._same.items())
        }


def _overlaps(pairs: Iterator[tuple[Counted, Counted]]) -> Iterator[tuple[Caption, Caption, float]]:
    for (first, first_words), (second, second_words) in pairs:
        if first.writer != second.writer and first.language == second.language:
            overlap = word_overlap(first_words, second_words)
            if overlap is not None:
                yield first, second, overlap


def _pair(first: Caption, second: Caption) -> str:
    return " / ".join(sorted((first.column, second.column)))


class Scorer:
    """Score the captions of shards, one after the other.

    Args:
        section: Params of the scores.
        layout: Layout of the project, for the base CLIP and the cache.
        env: Device and number of processes.
        progress: Called with the number of images of each finished batch.
    """

    def __init__(
        self, section: Scores, layout: Layout, env: Environment, progress: Callable[[int], None]
    ) -> None:
        self._columns, self._progress = section.columns, progress
        threads = env.processes or usable_cores()
        self._clip = BaseClip(layout.artifact("base_models"), section, env.device, threads)
        self._work = layout.work("recaption")
        self._cache = self._work / "pieces"
        self._agreement = Agreement()
        self._sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def write(self, shard: RecaptionShard, captions: list[Caption], folder: Path) -> list[Entry]:
        """Write a shard's image embeddings and the scores of its captions below a folder.

        Returns:
            The manifest entries of the embeddings; verified.
        """
        images = self.image_piece(shard)
        entries = put_files(images, folder, IMAGES_FOLDER)
        parts = [SIMILARITIES.empty_table()]
        for column in sorted({caption.column for caption in captions}):
            column_captions = [caption for caption in captions if caption.column == column]
            if self._columns is not None and column not in self._columns:
                parts.append(_not_scored(column_captions))
                continue
            folder_of_column = self._cached_similarities(images, column_captions)
            parts.append(read_table(folder_of_column / TABLE, SIMILARITIES))
            for name, value in read_json(folder_of_column / FIGURES).items():
                self._sums[column][name] += value
        table = pa.concat_tables(parts)
        agreement_by_caption = self._agreement.add(captions)
        lines = zip(*(table[name].to_pylist() for name in ("key", "column", "number")), strict=True)
        agreement = pa.array([agreement_by_caption.get(line) for line in lines], pa.float32())
        table = table.append_column(SCORES.field("agreement"), agreement)
        write_table(folder / SCORES_FOLDER / f"{shard.entry.name}.parquet", table)
        return entries

    def figures(self) -> dict[str, Any]:
        """Return mean similarity by column, mean agreement by pair of columns, and both at chance level.

        If captions of other images get the same similarity, the CLIP tells nothing about these captions.

        Raises:
            ConfigurationError: params name a column without captions.
        """
        if absent := sorted(set(self._columns or []) - self._sums.keys()):
            raise ConfigurationError(
                f"recaption.scores.columns names {', '.join(absent)}, and no image has a caption of it; "
                "expected columns of the source or of a captioner; fix params"
            )
        similarity = {
            column: {
                "captions": int(sums["captions"]),
                "mean": _mean(sums["similarity"], sums["captions"]),
                "chance": _mean(sums["chance"], sums["chance_captions"]),
                "cut_share": _mean(sums["cut"], sums["captions"]),
            }
            for column, sums in sorted(self._sums.items())
        }
        return {"similarity": similarity, "agreement": self._agreement.figures()}

    def image_piece(self, shard: RecaptionShard) -> Path:
        """Return the folder of a shard's image embeddings; compute them unless they are cached."""
        about = {**self._clip.identity, "dtype": "float16"}

        remaining = shard.entry.rows or 0

        def progress(images: int) -> None:
            nonlocal remaining
            remaining -= images
            self._progress(images)

        def make(folder: Path) -> None:
            pairs = shard.pairs
            columns = {
                "key": [pair.key for pair in pairs],
                "split": [pair.metadata["split"] for pair in pairs],
                "row": range(len(pairs)),
            }
            embeddings = self._clip.embed_images([pair.jpeg for pair in pairs], progress)
            table = pa.table(columns, schema=EMBEDDED_IMAGES)
            write_image_embeddings(folder, shard.entry.name, about, table, embeddings)

        code = code_of(self._work, "recaption", "image_embeddings")
        images = image_key(shard.download, shard.entry)
        key = content_key({"images": images, "name": shard.entry.name, "code": code, **about})
        result = get_or_build(self._cache / IMAGES_FOLDER, key, make)
        self._progress(remaining)  # all of them, if an earlier run computed them
        return result

    def _cached_similarities(self, images: Path, captions: list[Caption]) -> Path:
        """Return the folder of one column's similarities; compute them unless they are cached."""

        def make(folder: Path) -> None:
            table, figures = self._similarities(images, captions)
            write_table(folder / TABLE, table)
            write_json(folder / FIGURES, figures)

        lines = [[caption.key, caption.number, caption.text] for caption in captions]
        code = code_of(self._work, "recaption", "similarities")
        key = content_key([code, images.name, captions[0].column, lines])
        return get_or_build(self._cache / SCORES_FOLDER, key, make)

    def _similarities(self, images: Path, captions: list[Caption]) -> tuple[pa.Table, dict[str, float]]:
        keys, vectors = read_image_embeddings(next(images.glob("*.safetensors")))
        row_by_key = {key: row for row, key in enumerate(keys)}
        texts = list(dict.fromkeys(caption.text for caption in captions))
        index_by_text = {text: index for index, text in enumerate(texts)}
        text_indices = torch.tensor([index_by_text[caption.text] for caption in captions])
        text_vectors = self._clip.embed_texts(texts)[text_indices]
        rows = torch.tensor([row_by_key[caption.key] for caption in captions])
        similarity = _cosines(vectors[rows], text_vectors)
        other_rows = (rows + 1) % len(keys)  # the next image
        cut = self._clip.are_cut(texts)
        is_cut = [cut[index] for index in text_indices.tolist()]
        table = _lines(captions, similarity.tolist(), is_cut)
        chance_count = len(captions) if len(keys) > 1 else 0
        return table, {
            "captions": len(captions),
            "similarity": float(similarity.sum()),
            "chance": float(_cosines(vectors[other_rows], text_vectors).sum()) if chance_count else 0.0,
            "chance_captions": chance_count,
            "cut": sum(is_cut),
        }


def _not_scored(captions: list[Caption]) -> pa.Table:
    return _lines(captions, [None] * len(captions), [None] * len(captions))


def _lines(captions: list[Caption], similarity: list[Any], is_cut: list[Any]) -> pa.Table:
    columns = {name: [getattr(caption, name) for caption in captions] for name in ("key", "column", "number")}
    return pa.table({**columns, "similarity": similarity, "is_cut": is_cut}, schema=SIMILARITIES)


def _cosines(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Return the cosines (N,) of embeddings of length 1; those of images are rounded to fp16."""
    return torch.nn.functional.cosine_similarity(images.float(), texts, dim=1)


def _mean(total: float, count: float) -> float | None:
    return round(total / count, 6) if count else None
