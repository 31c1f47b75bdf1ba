"""Retrieval metrics: recall@k with several captions an image, chance levels, bootstrap intervals.

A query is a hit at k if at least one of its true candidates is among its first k. Ties count against it: a
false candidate with the score of the best true one ranks before it. Scores are computed and counted in chunks
of queries, so the whole matrix is never in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_SCORES = 1 << 22  # scores in memory at a time: 16 MiB
TIE = 1e-6  # scores of equal rows differ by rounding, which depends on their position in the matrix
BOOTSTRAP_CHUNK = 1 << 22
CHUNK_ROWS = 1024


@dataclass(frozen=True)
class Interval:
    """A share in 0..1, or a difference of two, with its bootstrap interval."""

    value: float
    low: float
    high: float


def true_ranks(queries: Tensor, candidates: Tensor, query_groups: Tensor, candidate_groups: Tensor) -> Tensor:
    """Return the rank of the best true candidate of each query, 0 for the first place.

    Args:
        queries: (Q, D), rows of length 1.
        candidates: (C, D), rows of length 1.
        query_groups: (Q,) integers; a candidate is true for a query when their groups are equal: the image a
            caption belongs to.
        candidate_groups: (C,) integers.

    Returns:
        (Q,) integers: false candidates whose score is at least that of the best true one.

    Raises:
        ValueError: a query has no true candidate, or a score is not finite.

    Example:
        >>> images = torch.eye(2)
        >>> captions = torch.tensor([[1.0, 0.0], [0.6, 0.8], [1.0, 0.0]])
        >>> true_ranks(captions, images, torch.tensor([0, 0, 1]), torch.tensor([0, 1])).tolist()
        [0, 1, 1]
    """
    chunk = max(1, CHUNK_SCORES // max(1, len(candidates)))
    return ranks_by_chunks(lambda part: queries[part] @ candidates.T, chunk, query_groups, candidate_groups)


def ranks_by_chunks(
    scores_of: Callable[[slice], Tensor], chunk: int, query_groups: Tensor, candidate_groups: Tensor
) -> Tensor:
    """Return the ranks of `true_ranks` from a function that computes scores (c, C) of c queries.

    Args:
        scores_of: Returns the scores of a slice of queries.
        chunk: Queries at a time.
        query_groups: (Q,), see `true_ranks`.
        candidate_groups: (C,), see `true_ranks`.

    Raises:
        ValueError: a query has no true candidate, or a score is not finite.
    """
    parts = [slice(start, start + chunk) for start in range(0, len(query_groups), chunk)]
    ranks = [
        ranks_from_scores(scores_of(part), query_groups[part, None] == candidate_groups[None, :])
        for part in parts
    ]
    return torch.cat(ranks) if ranks else torch.zeros(0, dtype=torch.long)


def ranks_from_scores(scores: Tensor, is_true: Tensor) -> Tensor:
    """Return the rank (Q,) of the best true candidate from scores (Q, C) and truth (Q, C); ties pessimistic.

    Raises:
        ValueError: a query has no true candidate, or a score is not finite.
    """
    if not bool(is_true.any(dim=1).all()):
        raise ValueError("a query has no true candidate; expected at least one each")
    if not bool(scores.isfinite().all()):
        raise ValueError("a score is not finite; expected embeddings without NaN or infinity")
    best = scores.masked_fill(~is_true, -math.inf).amax(dim=1, keepdim=True)
    return ((scores >= best - TIE) & ~is_true).sum(dim=1)


def distinct(texts: Sequence[str]) -> tuple[list[str], Tensor]:
    """Return the distinct texts in order of appearance, and (N,) the index of each text among them.

    Equal texts are one candidate of a search.
    """
    numbers: dict[str, int] = {}
    groups = torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts], dtype=torch.long)
    return list(numbers), groups


def top(queries: Tensor, candidates: Tensor, k: int) -> Tensor:
    """Return the indices (Q, k) of each query's best candidates, best first; ties in order."""
    chunk = max(1, CHUNK_SCORES // max(1, len(candidates)))
    chunks = [
        (queries[start : start + chunk] @ candidates.T).argsort(dim=1, descending=True, stable=True)[:, :k]
        for start in range(0, len(queries), chunk)
    ]
    return torch.cat(chunks) if chunks else torch.zeros(0, k, dtype=torch.long)


def recalls(
    ranks: Tensor, clusters: Tensor, recall_at: Sequence[int], samples: int, confidence: float, seed: int
) -> dict[int, Interval]:
    """Return recall@k with percentile bootstrap intervals.

    Args:
        ranks: (Q,) of `true_ranks`.
        clusters: (Q,) integers 0..N-1, the image of each query. Images are drawn with replacement, each with
            all of its queries, because captions of one image are not independent.
        recall_at: Values of k.
        samples: Bootstrap samples.
        confidence: Share of samples inside the interval, e.g. 0.95.
        seed: Seed of the draws; equal seeds draw the same images for every arm.
    """
    hits = torch.stack([(ranks < k).double() for k in recall_at], dim=1)  # (Q, K)
    return dict(zip(recall_at, _means(hits, clusters, samples, confidence, seed), strict=True))


def recall_difference(
    ranks: Tensor, other_ranks: Tensor, clusters: Tensor, k: int, samples: int, confidence: float, seed: int
) -> Interval:
    """Return the difference of recall@k to another model on the same queries, with a paired interval.

    The same bootstrap images are drawn for both, so the difficulty of an image does not widen the interval.

    Args:
        ranks: (Q,) of `true_ranks`.
        other_ranks: (Q,) of the other model.
        clusters: (Q,), see `recalls`.
        k: Number of first places.
        samples: Bootstrap samples.
        confidence: Share of samples inside the interval.
        seed: Seed of the draws.
    """
    differences = (ranks < k).double() - (other_ranks < k).double()
    return _means(differences[:, None], clusters, samples, confidence, seed)[0]


def _means(values: Tensor, clusters: Tensor, samples: int, confidence: float, seed: int) -> list[Interval]:
    """Return the mean of each column of values (Q, K) with its interval; whole images are drawn."""
    means = values.mean(dim=0)
    images = int(clusters.max()) + 1
    sums = torch.zeros(images, values.shape[1], dtype=torch.double).index_add_(0, clusters, values)
    counts = torch.zeros(images, dtype=torch.double).index_add_(
        0, clusters, torch.ones(len(clusters), dtype=torch.double)
    )
    drawn = _bootstrap(sums, counts, samples, seed)
    tail = (1 - confidence) / 2
    low, high = torch.quantile(drawn, torch.tensor([tail, 1 - tail], dtype=torch.double), dim=0)
    return [Interval(*(float(bound) for bound in bounds)) for bounds in zip(means, low, high, strict=True)]


def _bootstrap(sums: Tensor, counts: Tensor, samples: int, seed: int) -> Tensor:
    """Return resampled means (S, K) from sums (N, K) and queries (N,) per image."""
    generator = torch.Generator().manual_seed(seed)
    images, shares = len(counts), []
    for start in range(0, samples, max(1, BOOTSTRAP_CHUNK // images)):
        size = min(max(1, BOOTSTRAP_CHUNK // images), samples - start)
        picks = torch.randint(images, (size, images), generator=generator)
        weights = torch.zeros(size, images, dtype=torch.double)
        weights.scatter_add_(1, picks, torch.ones_like(picks, dtype=torch.double))
        shares.append((weights @ sums) / (weights @ counts)[:, None])
    return torch.cat(shares)


def chance_of_hit(candidates: int, true_candidates: Tensor, k: int) -> float:
    """Return the mean probability that a random order puts one of its true candidates among the first k.

    Args:
        candidates: Number of candidates.
        true_candidates: (Q,) number of true candidates of each query.
        k: Number of first places.
    """
    counts, queries = torch.unique(true_candidates, return_counts=True)
    total = sum(
        int(query_count) * (1 - _chance_of_miss(candidates, int(true), k))
        for true, query_count in zip(counts, queries, strict=True)
    )
    return total / len(true_candidates)


def _chance_of_miss(candidates: int, true: int, k: int) -> float:
    return math.comb(candidates - true, k) / math.comb(candidates, k) if k < candidates else 0.0


def alignment(first: Tensor, second: Tensor) -> float:
    """Return the mean squared distance of pairs (arXiv 2005.10242, section 4.1); 0 is best.

    Args:
        first: (N, D), rows of length 1.
        second: (N, D), rows of length 1; row i belongs to row i.
    """
    return float((first - second).double().square().sum(dim=1).mean())


def uniformity(rows: Tensor) -> float:
    """Return the logarithm of the mean of exp(-2 distance²) over all pairs of two rows (same source).

    0 means that all rows are equal; about -4 is the best for many dimensions.

    Args:
        rows: (N, D) of length 1, two or more.
    """
    total = 0.0
    for start in range(0, len(rows), CHUNK_ROWS):
        squares = 2 - 2 * (rows[start : start + CHUNK_ROWS] @ rows.T)  # (C, N)
        total += float(torch.exp(-2 * squares.clamp(min=0).double()).sum())
    count = len(rows)
    return math.log((total - count) / (count * (count - 1)))  # without pairs of a row and itself
