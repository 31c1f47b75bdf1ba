"""Compare texts by their words: TF-IDF retrieval, as a control for text encoders, and word overlap."""

from __future__ import annotations

import unicodedata
from collections import Counter

import torch
from torch import Tensor

from components.ml.metrics import CHUNK_SCORES, ranks_by_chunks
from components.ml.text.words import WORD


def word_ranks(queries: list[str], searched: list[str], groups: Tensor) -> Tensor:
    """Return the rank of each query's true text, by the cosine of TF-IDF vectors.

    Term frequency times ln((1 + n) / (1 + df)) + 1, rows of length 1 (Manning, Raghavan and Schütze,
    Introduction to Information Retrieval, chapter 6, smoothed). Words that no searched text has are ignored.

    Args:
        queries: (Q,) texts.
        searched: (C,) distinct texts, the collection.
        groups: (Q,) index of the true text of each query.

    Returns:
        (Q,) integers, 0 for the first place, as `ml.metrics.true_ranks` counts them.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer=words)
    no_words = not any(map(words, searched))  # scikit-learn refuses an empty vocabulary
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
    """Return the count of each word of a text."""
    return Counter(words(text))


def word_overlap(first: Counter[str], second: Counter[str]) -> float | None:
    """Return the share of the shorter text's words that the longer text has too, counted with repeats (0..1).

    The overlap coefficient (Szymkiewicz and Simpson) of two bags of words: ROUGE-1's clipped count (Lin
    2004) divided by the shorter text, not by both. A dense caption that contains the whole short one gets 1;
    an F score would fall with their difference in length. Words such as `a` count, so texts of different
    images overlap too: compare a mean with the mean of such pairs.

    Args:
        first: Word counts of one text.
        second: Word counts of the other.

    Returns:
        None if a text has no word.

    Example:
        >>> word_overlap(word_counts("a red dog"), word_counts("a dog on a red sofa"))
        1.0
        >>> word_overlap(word_counts("a red dog"), word_counts("two cats"))
        0.0
    """
    shorter = min(first.total(), second.total())
    return (first & second).total() / shorter if shorter else None
