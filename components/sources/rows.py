"""Read the rows of any source, and mix sources by weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from components.settings.sources import (
    Coco,
    Karpathy,
    Scenes,
    SceneTexts,
    Shards,
    Sidecars,
    Source,
)
from components.sources.annotations import read_coco, read_karpathy
from components.sources.row import Image, ImageFile, ImageMember, ImageScene, ImageUrl, Rejection, Row
from components.sources.sample_files import read_sidecars
from components.sources.scenes.scene import read_scenes
from components.sources.shard_rows import read_shards
from components.sources.table_rows import read_table_rows

__all__ = ["Image", "ImageFile", "ImageMember", "ImageScene", "ImageUrl", "Rejection", "Row", "read_rows"]
T = TypeVar("T")


def read_rows(source: Source, inputs: Path, seed: int) -> Iterator[Row | Rejection]:
    """Yield a source's rows in order, one at a time, and a rejection for each input row that gives none.

    Args:
        source: From params.
        inputs: The folder that the source's paths are relative to.
        seed: From params; decides the procedural scenes.

    Raises:
        ConfigurationError: an input that params name is missing, or has another format.
        DataError: an input is empty, damaged, or not the pinned one.
    """
    match source:
        case Scenes() | SceneTexts():
            return read_scenes(source, seed)
        case Coco():
            return read_coco(source, inputs)
        case Karpathy():
            return read_karpathy(source, inputs)
        case Sidecars():
            return read_sidecars(source, inputs)
        case Shards():
            return read_shards(source, inputs)
        case _:
            return read_table_rows(source, inputs)


def mixed(streams: Sequence[Iterator[T]], weights: Sequence[float]) -> Iterator[T]:
    """Merge streams in proportion to their weights, without randomness.

    Each item comes once, and each stream keeps its order. The next item comes from the stream that is
    furthest behind its share, and from the first of several such streams (Webster's rule). After n items of k
    streams, a stream of weight w has given n * w / sum(weights) items, within (k + 1) / 2, so any stretch
    holds the mixture. When a stream ends, the others take over its share in proportion to their weights.

    Example: `mixed([iter("aaaa"), iter("bb")], [2, 1])` gives a, b, a, a, b, a.

    Args:
        streams: The streams to merge.
        weights: One weight for each stream, above 0; only their ratios matter.
    """
    open_streams = list(range(len(streams)))
    counts = [0] * len(streams)
    while open_streams:
        index = min(open_streams, key=lambda stream: (counts[stream] + 0.5) / weights[stream])
        try:
            item = next(streams[index])
        except StopIteration:
            open_streams.remove(index)
            continue
        counts[index] += 1
        yield item
