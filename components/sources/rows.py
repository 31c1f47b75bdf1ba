"""Read the rows of any source."""

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


def read_rows(source: Source, inputs: Path, seed: int) -> Iterator[Row | Rejection]:
    """Yield a source's rows in their order, one at a time, and a rejection for each input row without one.

    Args:
        source: From params.
        inputs: The folder that the paths in it are relative to.
        seed: Of params; decides the procedural sources.

    Raises:
        ConfigurationError: what params name is missing, or of another kind.
        DataError: it is empty, damaged, or not what params pin.
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


T = TypeVar("T")


def mixed(streams: Sequence[Iterator[T]], weights: Sequence[float]) -> Iterator[T]:
    """Merge streams in proportion, each item once and each stream in its own order; nothing is drawn by lot.

    Whichever stream is furthest behind its share comes next, the first one of several (Webster's rule). After
    n items of k streams one of weight w has given n * w / sum(weights) items, within (k + 1) / 2: any stretch
    holds the mixture. A stream that ends leaves its share to the others in their proportion.

    Example: `mixed([iter("aaaa"), iter("bb")], [2, 1])` gives a, b, a, a, b, a.

    Args:
        streams: To be merged.
        weights: One of each stream, above 0; their ratios alone matter.
    """
    left = list(range(len(streams)))
    given = [0] * len(streams)
    while left:
        next_one = min(left, key=lambda one: (given[one] + 0.5) / weights[one])
        try:
            item = next(streams[next_one])
        except StopIteration:
            left.remove(next_one)
            continue
        given[next_one] += 1
        yield item
