"""Alignment and uniformity of embeddings on the sphere (Wang and Isola 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CHUNK_ROWS = 1024


def alignment(first: Tensor, second: Tensor) -> float:
    """Return the mean squared distance of pairs (arXiv 2005.10242, section 4.1); 0 is best.

    Args:
        first: (N, D), rows of length 1.
        second: (N, D), rows of length 1; row i belongs to row i.
    """
    return float((first - second).double().square().sum(dim=1).mean())


def uniformity(rows: Tensor) -> float:
    """Return the logarithm of the mean of exp(-2 distance²) over all pairs of two rows (same place).

    0 is all in one point; about -4 is as even as many dimensions allow.

    Args:
        rows: (N, D) of length 1, two or more.
    """
    total = 0.0
    for start in range(0, len(rows), CHUNK_ROWS):
        squares = 2 - 2 * (rows[start : start + CHUNK_ROWS] @ rows.T)  # (C, N)
        total += float(torch.exp(-2 * squares.clamp(min=0).double()).sum())
    count = len(rows)
    return math.log((total - count) / (count * (count - 1)))  # without each row with itself
