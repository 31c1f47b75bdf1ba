"""Score captions: similarity to the image under the base CLIP, and agreement between writers.

Image embeddings are cached by the picture, similarities by picture and text: only new captions are scored,
and no image is decoded again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
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
from components.storage.atomic import content_key, remove
from components.storage.computed import code_of
from components.storage.known_images import TABLE as PICTURES_TABLE
from components.storage.known_images import Lines, write_pictures
from components.storage.layout import Layout
from components.storage.manifest import Entry
from components.storage.result_cache import get_or_build, is_intact, put_files
from components.storage.scores import (
    EMBEDDED_IMAGES,
    IMAGES_FOLDER,
    SCORES,
    SCORES_FOLDER,
    read_image_embeddings,
    write_image_embeddings,
)
from components.storage.side_tables import Caption, read_table, text_key, write_table

if TYPE_CHECKING:
    from components.recaption.shard import RecaptionShard


Counted = tuple[Caption, Counter[str]]
SIMILARITIES = pa.schema([field for field in SCORES if field.name != "agreement"])
CACHED = pa.schema(
    [
        ("key", pa.string()),
        ("text_key", pa.string()),
        ("similarity", pa.float32()),
        ("chance", pa.float32()),  # with the next image of the tar; null if it is the only one
        ("is_cut", pa.bool_()),
    ]
)
TABLE = "similarities.parquet"


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
        entries = put_files(images, folder, IMAGES_FOLDER, leave=(PICTURES_TABLE,))
        parts = [SIMILARITIES.empty_table()]
        for column in sorted({caption.column for caption in captions}):
            column_captions = [caption for caption in captions if caption.column == column]
            if self._columns is not None and column not in self._columns:
                parts.append(_not_scored(column_captions))
                continue
            cached = self._cached_similarities(images, column_captions)
            parts.append(_lines(column_captions, cached["similarity"], cached["is_cut"]))
            for name, value in _sums(cached).items():
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
        """Return the folder of the image embeddings of a shard's tar; compute those that no result has."""
        about = {**self._clip.identity, "dtype": "float16"}
        code = code_of(self._work, "recaption", "image_embeddings")
        store = self._cache / IMAGES_FOLDER / content_key({"code": code, **about})
        remaining = shard.entry.rows or 0

        def progress(images: int) -> None:
            nonlocal remaining
            remaining -= images
            self._progress(images)

        def make(folder: Path) -> None:
            keys = [pair.key for pair in shard.pairs]
            sha256s = [sha256(pair.jpeg).hexdigest() for pair in shard.pairs]
            known = _known_vectors(shard.shards.known(store).find(shard.sha256s.values()))
            new = [row for row, picture in enumerate(sha256s) if picture not in known]
            embedded = self._clip.embed_images([shard.pairs[row].jpeg for row in new], progress)
            vectors = torch.empty(len(keys), embedded.shape[1])
            vectors[new] = embedded
            for row, picture in enumerate(sha256s):
                if picture in known:
                    vectors[row] = known[picture].float()
            table = pa.table({"key": keys, "row": range(len(keys))}, schema=EMBEDDED_IMAGES)
            write_image_embeddings(folder, shard.entry.name, about, table, vectors)
            write_pictures(folder, keys, sha256s)

        result = get_or_build(store, f"{shard.entry.sha256}.{shard.entry.name}", make)
        self._progress(remaining)  # all of them, if an earlier run computed them
        return result

    def _cached_similarities(self, images: Path, captions: list[Caption]) -> pa.Table:
        """Return one column's similarities (`CACHED`), a line for each caption; compute the missing ones."""
        code = code_of(self._work, "recaption", "similarities")
        scored = self._cache / SCORES_FOLDER / content_key([code, images.parent.name])
        store = scored / images.name / captions[0].column
        lines = [[caption.key, caption.number, text_key(caption.text)] for caption in captions]
        key = content_key(lines)
        earlier = [folder for folder in store.glob("[0-9a-f]*") if folder.name != key]

        def make(folder: Path) -> None:
            write_table(folder / TABLE, self._similarities(images, captions, earlier))

        result = get_or_build(store, key, make)
        for folder in earlier:
            remove(folder)
        return read_table(result / TABLE, CACHED).slice(0, len(captions))

    def _similarities(self, images: Path, captions: list[Caption], earlier: Sequence[Path]) -> pa.Table:
        """Return the similarities of a column's captions, then those that only earlier results have."""
        known = {
            (line["key"], line["text_key"]): line
            for folder in earlier
            if is_intact(folder)
            for line in read_table(folder / TABLE, CACHED).to_pylist()
        }
        keys = [(caption.key, text_key(caption.text)) for caption in captions]
        new = {key: caption for key, caption in zip(keys, captions, strict=True) if key not in known}
        known |= dict(zip(new, self._computed(images, list(new.values())), strict=True))
        order = [*keys, *sorted(known.keys() - set(keys))]
        columns = {name: [known[key][name] for key in order] for name in ("similarity", "chance", "is_cut")}
        places = {"key": [key for key, _ in order], "text_key": [text for _, text in order]}
        return pa.table({**places, **columns}, schema=CACHED)

    def _computed(self, images: Path, captions: list[Caption]) -> list[dict[str, Any]]:
        """Return similarity, that with the next image of the tar, and whether the caption is cut."""
        if not captions:
            return []
        keys, vectors = read_image_embeddings(next(images.glob("*.safetensors")))
        row_by_key = {key: row for row, key in enumerate(keys)}
        texts = list(dict.fromkeys(caption.text for caption in captions))
        index_by_text = {text: index for index, text in enumerate(texts)}
        text_indices = torch.tensor([index_by_text[caption.text] for caption in captions])
        text_vectors = self._clip.embed_texts(texts)[text_indices]
        rows = torch.tensor([row_by_key[caption.key] for caption in captions])
        similarity = _cosines(vectors[rows], text_vectors).tolist()
        chance: list[Any] = _cosines(vectors[(rows + 1) % len(keys)], text_vectors).tolist()
        cut = self._clip.are_cut(texts)
        is_cut = [cut[index] for index in text_indices.tolist()]
        if len(keys) == 1:
            chance = [None] * len(captions)
        return [
            {"similarity": own, "chance": other, "is_cut": is_long}
            for own, other, is_long in zip(similarity, chance, is_cut, strict=True)
        ]


def _known_vectors(found: Mapping[Path, Lines]) -> dict[str, torch.Tensor]:
    """Return the embeddings (D,) of pictures that earlier results have, by sha256."""
    vectors: dict[str, torch.Tensor] = {}
    for folder, lines in found.items():
        _, embeddings = read_image_embeddings(next(folder.glob("*.safetensors")))
        vectors |= {picture: embeddings[line] for picture, line in lines.items()}
    return vectors


def _sums(cached: pa.Table) -> dict[str, float]:
    """Return the sums of a column's figures over a shard."""
    chance = cached["chance"].drop_null().to_numpy().astype(float)
    return {
        "captions": len(cached),
        "similarity": float(cached["similarity"].to_numpy().astype(float).sum()),
        "chance": float(chance.sum()),
        "chance_captions": len(chance),
        "cut": sum(cached["is_cut"].to_pylist()),
    }


def _not_scored(captions: list[Caption]) -> pa.Table:
    return _lines(captions, [None] * len(captions), [None] * len(captions))


def _lines(captions: list[Caption], similarity: Any, is_cut: Any) -> pa.Table:  # noqa: ANN401 - columns
    columns = {name: [getattr(caption, name) for caption in captions] for name in ("key", "column", "number")}
    return pa.table({**columns, "similarity": similarity, "is_cut": is_cut}, schema=SIMILARITIES)


def _cosines(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Return the cosines (N,) of embeddings of length 1; those of images are rounded to fp16."""
    return torch.nn.functional.cosine_similarity(images.float(), texts, dim=1)


def _mean(total: float, count: float) -> float | None:
    return round(total / count, 6) if count else None
