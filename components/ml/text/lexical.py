"""TF-IDF, the control for text that meets text: what counting words alone achieves."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter

import torch
from torch import Tensor

from components.ml.metrics import CHUNK_SCORES, ranks_by_chunks
from components.ml.text.words import WORD


class TfIdf:
    """Weights of words by how few of the texts searched hold them.

    Term frequency times ln((1 + n) / (1 + df)) + 1, rows of length 1 (Manning, Raghavan and Schütze,
    Introduction to Information Retrieval, chapter 6, smoothed).

    Args:
        texts: The collection that is searched.
    """

    def __init__(self, texts: list[str]) -> None:
        holders = Counter(word for text in texts for word in set(words(text)))
        self.columns = {word: number for number, word in enumerate(sorted(holders))}
        self.weights = [math.log((1 + len(texts)) / (1 + holders[word])) + 1 for word in self.columns]

    def vectors(self, texts: list[str]) -> Tensor:
        """Return (N, V), sparse, rows of length 1, or 0 where no word of the text is in the collection."""
        rows: list[int] = []
        columns: list[int] = []
        values: list[float] = []
        for row, text in enumerate(texts):
            counts = Counter(self.columns[word] for word in words(text) if word in self.columns)
            weights = [count * self.weights[column] for column, count in counts.items()]
            length = math.hypot(*weights)
            rows += [row] * len(counts)
            columns += counts
            values += [weight / length for weight in weights]
        places, size = torch.tensor([rows, columns], dtype=torch.long), (len(texts), len(self.columns))
        return torch.sparse_coo_tensor(places, torch.tensor(values), size, check_invariants=True).coalesce()


def word_ranks(queries: list[str], searched: list[str], groups: Tensor) -> Tensor:
    """Return the rank of what each query should find among texts, by the cosine of their TF-IDF vectors.

    Most words stand in few texts, so that of the weights only those are held that are not 0.

    Args:
        queries: (Q,).
        searched: (C,) different texts, the collection.
        groups: (Q,) the number of the text that each query should find.

    Returns:
        (Q,) integers, 0 for the first place, as `ml.retrieval.true_ranks` counts them.
    """
    index = TfIdf(searched)
    candidates = index.vectors(searched)

    def cosines(part: slice) -> Tensor:
        return torch.sparse.mm(candidates, index.vectors(queries[part]).to_dense().T).T

    chunk = max(1, CHUNK_SCORES // max(1, *candidates.shape))
    return ranks_by_chunks(cosines, chunk, groups, torch.arange(len(searched)))


def words(text: str) -> list[str]:
    """Split a text into lower-case words."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())
