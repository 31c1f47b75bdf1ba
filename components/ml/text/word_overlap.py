"""How much two texts say the same, by counting words: no model, so it cannot share a model's mistakes."""

from __future__ import annotations

from collections import Counter

from components.ml.text.lexical import words


def word_counts(text: str) -> Counter[str]:
    """Return how often a text has each word."""
    return Counter(words(text))


def word_overlap(first: Counter[str], second: Counter[str]) -> float | None:
    """Return the share of the shorter text's words that the longer one has too, each as often (0..1).

    The overlap coefficient (Szymkiewicz and Simpson) of two bags of words: ROUGE-1's clipped count (Lin
    2004) divided by the shorter text, not by both. A dense caption that holds the whole short one gets 1,
    where an F score would measure that their lengths differ. Words such as `a` count, so texts of different
    images overlap too: a mean says something only beside that of such pairs.

    Args:
        first: Of one text.
        second: Of the other.

    Returns:
        None where a text has no word.

    Example:
        >>> word_overlap(word_counts("a red dog"), word_counts("a dog on a red sofa"))
        1.0
        >>> word_overlap(word_counts("a red dog"), word_counts("two cats"))
        0.0
    """
    shorter = min(first.total(), second.total())
    return (first & second).total() / shorter if shorter else None
