"""Gradient cache: the gradient of a large batch in the memory of a chunk (arXiv 2101.06983)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from components.ml.distributed import gather, gradient_factor, rank, share_of, sum_gradients

LARGEST_SEED = 2**62


def backward(
    parts: Sequence[Callable[[], Tensor]],
    loss_of: Callable[[Tensor], Tensor],
    weights: Sequence[Tensor],
    rows: int,
    *,
    is_cached: bool,
) -> Tensor:
    """Add the gradients of a contrastive loss to weights, and return the loss.

    With `is_cached` (GradCache, arXiv 2101.06983) each part is embedded twice: once without gradient, until
    the loss of all tells what each embedding's gradient is, and once more to carry it on to the weights. Only
    one part's activations are in memory at a time; the gradients are those of the plain loss.

    Args:
        parts: Of this process's share of the batch, in order; each returns its embeddings (b, D). A part
            draws its randomness (dropout) from torch's global generator, which is seeded anew for each.
        loss_of: Takes the embeddings (B, D) of the whole batch.
        weights: Those that learn.
        rows: B, over all processes.
        is_cached: Whether memory is saved by computing twice.

    Raises:
        ValueError: the rows cannot be shared equally by the processes.
    """
    share = share_of(rows)
    seeds = [seed + rank() for seed in torch.randint(LARGEST_SEED, (len(parts),)).tolist()]
    with torch.set_grad_enabled(not is_cached):
        own = [_seeded(part, seed) for part, seed in zip(parts, seeds, strict=True)]
    embeddings = gather(torch.cat(own), share, rows).requires_grad_()
    loss = loss_of(embeddings)
    (gradient,) = torch.autograd.grad(loss, embeddings)
    of_parts = (gradient[share] * gradient_factor(weights)).split([len(part) for part in own])
    if is_cached:
        for part, seed, one in zip(parts, seeds, of_parts, strict=True):
            _seeded(part, seed).backward(one)
    else:
        torch.autograd.backward(own, of_parts)
    sum_gradients(weights)
    return loss.detach()


def _seeded(part: Callable[[], Tensor], seed: int) -> Tensor:
    torch.manual_seed(seed)
    return part()
