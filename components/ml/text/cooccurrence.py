"""Initial token embeddings from co-occurrence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

MOST_TOKENS = 20_000  # of a vocabulary: its matrix of pairs is held whole
POWER_ITERATIONS = 2


def cooccurrence_embeddings(
    documents: Iterable[Sequence[int]], vocabulary: int, width: int, deviation: float
) -> Tensor:
    """Return (vocabulary, width) float32: the largest directions of positive pointwise mutual information.

    Two tokens are counted once for each document that holds both; of the matrix ln(P(a, b) / (P(a) P(b))),
    cut at 0, the left singular vectors are taken, each times the root of its value (Levy and Goldberg 2014,
    "Neural word embedding as implicit matrix factorization", section 5; symmetric). Tokens of no document are
    zero.

    Args:
        documents: Token ids, such as those of all captions of an image.
        vocabulary: Number of tokens.
        width: At most `vocabulary`.
        deviation: What the standard deviation of all numbers is made.

    Raises:
        ValueError: the vocabulary is too large for this, or no two tokens stand together.
    """
    if vocabulary > MOST_TOKENS:
        raise ValueError(f"{vocabulary} tokens; expected {MOST_TOKENS} or fewer, whose pairs fit memory")
    counts = torch.zeros(vocabulary, vocabulary)
    for document in documents:
        present = torch.tensor(sorted(set(document)), dtype=torch.long)
        counts[present[:, None], present] += 1
    counts.fill_diagonal_(0)
    of_token = counts.sum(dim=1)
    total = of_token.sum()
    if not total:
        raise ValueError("no two tokens stand together; expected documents of several tokens")
    information = (counts * total / (of_token[:, None] * of_token)).nan_to_num_(0.0).clamp_(min=1.0).log_()
    left, values, _ = torch.svd_lowrank(information, q=width, niter=POWER_ITERATIONS)
    embeddings = (left * values.sqrt()).masked_fill_((of_token == 0)[:, None], 0.0)
    return embeddings * (deviation / embeddings.std())
