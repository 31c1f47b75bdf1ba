"""Compare texts by their words alone: TF-IDF retrieval, the control for text encoders, and word overlap."""

from __future__ import annotations

import unicodedata
from collections import Counter

import torch
from torch import Tensor

from components.ml.metrics import CHUNK_SCORES, ranks_by_chunks
from components.ml.text.words import WORD


def word_ranks(queries: list[str], searched: list[str], groups: Tensor) -> Tensor:
    """Return the rank of what each query should find among texts, by the cosine of their TF-IDF vectors.

    Term frequency times ln((1 + n) / (1 + df)) + 1, rows of length 1 (Manning, Raghavan and Schütze,
    Introduction to Information Retrieval, chapter 6, smoothed). Words of no searched text count for nothing.

    Args:
        queries: (Q,).
        searched: (C,) different texts, the collection.
        groups: (Q,) the number of the text that each query should find.

    Returns:
        (Q,) integers, 0 for the first place, as `ml.metrics.true_ranks` counts them.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer=words)
    no_words = not any(map(words, searched))  # of which scikit-learn makes no vocabulary
    candidates = None if no_words else vectorizer.fit_transform(searched).T.tocsr()

    def cosines(part: slice) -> Tensor:
        if candidates is None:
            return torch.zeros(len(queries[part]), len(searched))
        return torch.from_numpy((vectorizer.transform(queries[part]) @ candidates).toarray())

    chunk = max(1, CHUNK_SCORES // max(1, len(searched)))
    return ranks_by_chunks(cosines, chunk, groups, torch.arange(len(searched)))


def words(text: str) -> list[str]:
    """Split a text into lower-case words."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


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
