"""Contrastive losses, in chunks: a B x B matrix of logits is never held for backward."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ROWS = 1024


def clip_loss(image_embeddings: Tensor, text_embeddings: Tensor, logit_scale: Tensor) -> Tensor:
    """Return the symmetric InfoNCE of CLIP (arXiv 2103.00020, figure 3); row i belongs to row i.

    Args:
        image_embeddings: (B, D), rows of length 1.
        text_embeddings: (B, D), rows of length 1.
        logit_scale: 1/temperature, a scalar; gradients reach it.
    """
    return _info_nce(image_embeddings, text_embeddings, logit_scale, symmetric=True, captions=None)


def caption_loss(
    first: Tensor, second: Tensor, temperature: float, *, symmetric: bool, captions: Tensor | None = None
) -> Tensor:
    """Return the InfoNCE of caption pairs (supervised SimCSE, arXiv 2411.04997 section 3.1).

    Args:
        first: (B, D), rows of length 1: the queries.
        second: (B, D), rows of length 1: their positives; all other rows are negatives.
        temperature: tau, by which cosines are divided.
        symmetric: Average it with the same loss from second to first.
        captions: (B, 2), one number for each distinct text among the captions of `first` and `second`. Two
            rows that share a text are no negatives of each other. None: all are.
    """
    return _info_nce(first, second, torch.as_tensor(1 / temperature), symmetric, captions)


def _info_nce(
    first: Tensor, second: Tensor, logit_scale: Tensor, symmetric: bool, captions: Tensor | None
) -> Tensor:
    rows = len(first)
    # logits in bf16 would round similarities at a scale of 100 to halves
    with torch.autocast(first.device.type, enabled=False):
        first, second = first.float(), second.float()
        parts = [
            _chunk(first, second, logit_scale, captions, start, rows) for start in range(0, rows, CHUNK_ROWS)
        ]
        positives = torch.cat([part[0] for part in parts])  # (B,)
        over_second = torch.cat([part[1] for part in parts])  # (B,)
        loss = (over_second - positives).mean()
        if not symmetric:
            return loss
        over_first = torch.logsumexp(torch.stack([part[2] for part in parts]), dim=0)  # (B,)
        return (loss + (over_first - positives).mean()) / 2


def _chunk(
    first: Tensor, second: Tensor, logit_scale: Tensor, captions: Tensor | None, start: int, rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    arguments = (first[start : start + CHUNK_ROWS], second, logit_scale, captions, start)
    if rows <= CHUNK_ROWS:
        return _sums(*arguments)
    parts: tuple[Tensor, Tensor, Tensor] = checkpoint(
        _sums, *arguments, use_reentrant=False, preserve_rng_state=False
    )
    return parts


def _sums(
    first: Tensor, second: Tensor, logit_scale: Tensor, captions: Tensor | None, start: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return for C rows of `first` their positives' logits (C,), log-sums over rows (C,) and columns (B,)."""
    logits = logit_scale * (first @ second.T)  # (C, B)
    here = torch.arange(start, start + len(first), device=first.device)
    positives = logits.gather(1, here[:, None])[:, 0]
    if captions is not None:
        shared = (captions[here][:, None, :, None] == captions[None, :, None, :]).any(-1).any(-1)  # (C, B)
        itself = here[:, None] == torch.arange(len(second), device=first.device)
        logits = logits.masked_fill(shared & ~itself, float("-inf"))
    return positives, torch.logsumexp(logits, dim=1), torch.logsumexp(logits, dim=0)
