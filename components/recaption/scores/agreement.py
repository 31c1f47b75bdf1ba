"""How much different writers' captions of one image say the same, and how much they would by chance."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from components.ml.text.lexical import word_counts, word_overlap
from components.storage.side_tables import Caption

Counted = tuple[Caption, Counter[str]]


@dataclass
class Mean:
    """A mean whose numbers come one by one."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """Take in a number."""
        self.total += value
        self.count += 1

    def value(self) -> float | None:
        """Return the mean, None of nothing."""
        return round(self.total / self.count, 6) if self.count else None


class Agreement:
    """Adds up word overlap by pair of columns, shard by shard; only captions of one language are compared."""

    def __init__(self) -> None:
        self._same: dict[str, Mean] = defaultdict(Mean)
        self._chance: dict[str, Mean] = defaultdict(Mean)

    def add(self, captions: Sequence[Caption]) -> dict[tuple[str, str, int], float]:
        """Take in a shard's captions.

        Returns:
            By key, column and number: the mean overlap with the other writers' captions of the image.
        """
        by_key: dict[str, list[Counted]] = defaultdict(list)
        for caption in captions:
            by_key[caption.key].append((caption, word_counts(caption.text)))
        found: dict[tuple[str, str, int], list[float]] = defaultdict(list)
        for of_image in by_key.values():
            for first, second, overlap in _overlaps(combinations(of_image, 2)):
                self._same[_pair(first, second)].add(overlap)
                for caption in (first, second):
                    found[caption.key, caption.column, caption.number].append(overlap)
        rows = list(by_key.values())
        for row, following in zip(rows, rows[1:], strict=False):
            for first, second, overlap in _overlaps(product(row, following)):
                self._chance[_pair(first, second)].add(overlap)
        return {caption: sum(overlaps) / len(overlaps) for caption, overlaps in found.items()}

    def figures(self) -> dict[str, Any]:
        """Return by pair of columns the mean overlap, and that of captions of neighbouring images."""
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
