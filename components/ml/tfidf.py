"""TF-IDF, the control for text that meets text: what counting words alone achieves."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter

import torch
from torch import Tensor

from components.ml.words import WORD


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
        """Return (N, V), rows of length 1, or 0 where no word of the text is in the collection."""
        vectors = torch.zeros(len(texts), len(self.columns))
        for row, text in enumerate(texts):
            for word, count in Counter(words(text)).items():
                if word in self.columns:
                    column = self.columns[word]
                    vectors[row, column] = count * self.weights[column]
        return torch.nn.functional.normalize(vectors, dim=1)


def words(text: str) -> list[str]:
    """Split a text into lower-case words."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())
