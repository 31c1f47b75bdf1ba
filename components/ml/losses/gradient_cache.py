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

    With `is_cached` (GradCache, arXiv 2101.06983) each part is embedded twice: first without gradient, to get
    the loss of the batch and the gradient of each embedding, then again to pass it back to the weights. Only
    the activations of one part are in memory at a time; the gradients are those of the plain loss.

    Args:
        parts: Parts of this process's share of the batch, in order; each returns its embeddings (b, D). Its
            randomness (dropout) comes from torch's global generator, which is seeded for each part.
        loss_of: Returns the loss of the embeddings (B, D) of the whole batch.
        weights: Trainable weights.
        rows: B, over all processes.
        is_cached: Save memory by computing embeddings twice.

    Raises:
        ValueError: the rows cannot be shared equally by the processes.
    """
    share = share_of(rows)
    seeds = [seed + rank() for seed in torch.randint(LARGEST_SEED, (len(parts),)).tolist()]
    with torch.set_grad_enabled(not is_cached):
        part_embeddings = [_seeded(part, seed) for part, seed in zip(parts, seeds, strict=True)]
    embeddings = gather(torch.cat(part_embeddings), share, rows).requires_grad_()
    loss = loss_of(embeddings)
    (gradient,) = torch.autograd.grad(loss, embeddings)
    part_gradients = (gradient[share] * gradient_factor(weights)).split(
        [len(part) for part in part_embeddings]
    )
    if is_cached:
        for part, seed, part_gradient in zip(parts, seeds, part_gradients, strict=True):
            _seeded(part, seed).backward(part_gradient)
    else:
        torch.autograd.backward(part_embeddings, part_gradients)
    sum_gradients(weights)
    return loss.detach()


def _seeded(part: Callable[[], Tensor], seed: int) -> Tensor:
    torch.manual_seed(seed)
    return part()
