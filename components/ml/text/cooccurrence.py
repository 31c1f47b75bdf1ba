"""Initial token embeddings from co-occurrence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

MOST_TOKENS = 20_000  # of a vocabulary: the matrix of all pairs is in memory
POWER_ITERATIONS = 2


def cooccurrence_embeddings(
    documents: Iterable[Sequence[int]], vocabulary: int, width: int, deviation: float
) -> Tensor:
    """Return (vocabulary, width) float32: the top singular vectors of positive pointwise mutual information.

    Two tokens are counted once for each document that holds both. The matrix is ln(P(a, b) / (P(a) P(b))),
    cut at 0. Its left singular vectors are each scaled by the root of the singular value (Levy and Goldberg
    2014, "Neural word embedding as implicit matrix factorization", section 5; symmetric). Tokens of no
    document are zero.

    Args:
        documents: Token ids, such as those of all captions of an image.
        vocabulary: Number of tokens.
        width: At most `vocabulary`.
        deviation: Standard deviation of all numbers of the result.

    Raises:
        ValueError: the vocabulary is too large, or no two tokens occur together.
    """
    if vocabulary > MOST_TOKENS:
        raise ValueError(
            f"{vocabulary} tokens; expected {MOST_TOKENS} or fewer, so that their pairs fit memory"
        )
    counts = torch.zeros(vocabulary, vocabulary)
    for document in documents:
        present = torch.tensor(sorted(set(document)), dtype=torch.long)
        counts[present[:, None], present] += 1
    counts.fill_diagonal_(0)
    token_counts = counts.sum(dim=1)
    total = token_counts.sum()
    if not total:
        raise ValueError("no two tokens occur together; expected documents of several tokens")
    information = (
        (counts * total / (token_counts[:, None] * token_counts)).nan_to_num_(0.0).clamp_(min=1.0).log_()
    )
    left, values, _ = torch.svd_lowrank(information, q=width, niter=POWER_ITERATIONS)
    embeddings = (left * values.sqrt()).masked_fill_((token_counts == 0)[:, None], 0.0)
    return embeddings * (deviation / embeddings.std())
