"""Mix sources by weight, evenly over the whole stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

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
