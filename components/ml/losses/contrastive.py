"""Contrastive losses in chunks: the B x B matrix of logits is never stored for backward."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ROWS = 1024


@dataclass(frozen=True)
class NegativeMask:
    """Masks candidates that are false negatives of a row.

    Attributes:
        identities: (B, K) integers that identify the content of row i: its texts, its image. None: unknown.
        candidate_identities: (B + N, K) integers of the candidates. A candidate that shares an identity with
            a row is masked for it; the row's own positive never is. Numbers below 0 match nothing.
        guides: (B + N, d), rows of length 1: another model's embeddings of the candidates' texts. A candidate
            is masked if its cosine with the row's positive is `guide_cosine` or more.
        guide_cosine: None: guides are not used.
        margin: A candidate is also masked if its cosine exceeds that of the row's positive by more than this
            (arXiv 2506.05176, section 3.1). None: not used.
    """

    identities: Tensor | None = None
    candidate_identities: Tensor | None = None
    guides: Tensor | None = None
    guide_cosine: float | None = None
    margin: float | None = None


def clip_loss(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    logit_scale: Tensor,
    excluded: NegativeMask | None = None,
) -> Tensor:
    """Return the symmetric InfoNCE of CLIP (arXiv 2103.00020, figure 3); row i belongs to row i.

    Args:
        image_embeddings: (B, D), rows of length 1.
        text_embeddings: (B, D), rows of length 1.
        logit_scale: 1/temperature, a scalar; gradients reach it.
        excluded: Captions that are no negatives of an image. None: all other captions are negatives.
    """
    return _info_nce(
        image_embeddings, text_embeddings, logit_scale, symmetric=True, excluded=excluded or NegativeMask()
    )


def captions_loss(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    logit_scale: Tensor,
    captions_each: int,
    excluded: NegativeMask | None = None,
) -> Tensor:
    """Return CLIP's symmetric InfoNCE for images with several captions, and further negatives.

    Each caption of an image is a positive of its own (as in SupCon's outer sum, arXiv 2004.11362, equation
    2): it competes with the captions of other images and with the further negatives, never with the image's
    other captions. In the other direction each caption is compared with all images. With one caption an image
    and no further negatives this is `clip_loss`, to the bit.

    Args:
        image_embeddings: (B, D), rows of length 1.
        text_embeddings: (B * k + N, D), rows of length 1: the k captions of each image, image by image, then
            N captions of other images.
        logit_scale: 1/temperature, a scalar; gradients reach it.
        captions_each: k.
        excluded: Captions that are no negatives of an image. `identities` are (B, K), one row an image,
            `candidate_identities` and `guides` have one row for each caption. The guides mask a caption that
            is near to any of the image's own. The margin is not used.
    """
    if len(image_embeddings) == len(text_embeddings):
        return clip_loss(image_embeddings, text_embeddings, logit_scale, excluded)
    mask = excluded or NegativeMask()
    arguments = (image_embeddings.float(), text_embeddings.float(), logit_scale, captions_each, mask)
    # logits in bf16 would round similarities at a scale of 100 to halves
    with torch.autocast(image_embeddings.device.type, enabled=False):
        starts = range(0, len(image_embeddings), CHUNK_ROWS)
        if len(starts) == 1:
            parts = [_image_sums(*arguments, 0)]
        else:
            parts = [
                checkpoint(_image_sums, *arguments, start, use_reentrant=False, preserve_rng_state=False)
                for start in starts
            ]
        positives, over_texts = (torch.cat([part[index] for part in parts]) for index in range(2))  # (B, k)
        over_images = torch.logsumexp(torch.stack([part[2] for part in parts]), dim=0)  # (B * k,)
        return ((over_texts - positives).mean() + (over_images - positives.flatten()).mean()) / 2


def _image_sums(
    images: Tensor, texts: Tensor, logit_scale: Tensor, captions_each: int, excluded: NegativeMask, start: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return for C images positives (C, k), log-sums over texts (C, k) and over images (B * k,)."""
    rows = torch.arange(start, min(start + CHUNK_ROWS, len(images)), device=images.device)
    own_captions = (
        rows[:, None] * captions_each + torch.arange(captions_each, device=images.device)
    ).flatten()
    logits = logit_scale * (images[rows] @ texts.T)  # (C, B * k + N)
    positives = logits.gather(1, own_captions.view(len(rows), captions_each))
    is_own = rows[:, None] == torch.arange(len(texts), device=images.device) // captions_each
    is_own[:, len(images) * captions_each :] = False
    mask = _image_mask(excluded, rows, own_captions, captions_each)
    others = logits.masked_fill(_either_mask(mask, is_own), float("-inf"))
    over_texts = torch.logaddexp(positives, torch.logsumexp(others, dim=1, keepdim=True))
    caption_logits = logits if mask is None else logits.masked_fill(mask & ~is_own, float("-inf"))
    return positives, over_texts, torch.logsumexp(caption_logits[:, : len(images) * captions_each], dim=0)


def _image_mask(
    excluded: NegativeMask, rows: Tensor, own_captions: Tensor, captions_each: int
) -> Tensor | None:
    """Return the mask (C, B * k + N) of captions that are no negatives of images; None if none is known."""
    mask: Tensor | None = None
    if excluded.identities is not None and excluded.candidate_identities is not None:
        mask = _shared_identity(excluded.identities[rows], excluded.candidate_identities)
    if excluded.guides is not None and excluded.guide_cosine is not None:
        is_near = excluded.guides[own_captions] @ excluded.guides.T >= excluded.guide_cosine
        mask = _either_mask(mask, is_near.view(len(rows), captions_each, -1).any(dim=1))
    return mask


def caption_loss(
    first: Tensor,
    second: Tensor,
    temperature: float,
    *,
    symmetric: bool,
    same_side: bool = False,
    excluded: NegativeMask | None = None,
) -> Tensor:
    """Return the InfoNCE of caption pairs (supervised SimCSE, arXiv 2411.04997 section 3.1).

    Args:
        first: (B, D), rows of length 1: the queries.
        second: (B + N, D), rows of length 1: the B positives, then N negatives of every query. All other rows
            are negatives.
        temperature: tau, by which cosines are divided.
        symmetric: Average with the same loss from the positives to `first`.
        same_side: The other rows of `first` are also negatives of a query, and all other rows of `second` are
            negatives of a positive (arXiv 2308.03281, section 3.2, with a separate sum for each side).
        excluded: Candidates that are no negatives. None: all are negatives.
    """
    mask = excluded or NegativeMask()
    if same_side:
        first, second, mask = _from_both_sides(first, second, mask, symmetric)
        symmetric = False  # the mean over rows of both sides is the mean of both directions
    return _info_nce(first, second, torch.as_tensor(1 / temperature), symmetric, mask)


def _from_both_sides(
    first: Tensor, second: Tensor, excluded: NegativeMask, symmetric: bool
) -> tuple[Tensor, Tensor, NegativeMask]:
    """Return queries, candidates and mask for a loss in which the queries are candidates too."""
    rows = len(first)
    no_identity = torch.full((len(second), 1), -1, device=first.device)
    queries = no_identity[:rows] if excluded.identities is None else excluded.identities
    candidates = no_identity if excluded.candidate_identities is None else excluded.candidate_identities
    free_identity = 1 + max(int(queries.max()), int(candidates.max()))
    # no text is a negative of itself
    own_identity = free_identity + torch.arange(rows, device=first.device)[:, None]
    queries = torch.cat([queries, own_identity], dim=1)
    candidates = torch.cat([candidates, torch.cat([own_identity, no_identity[rows:]])], dim=1)
    mask = replace(
        excluded,
        identities=torch.cat([queries, candidates[:rows]]) if symmetric else queries,
        candidate_identities=torch.cat([candidates[:rows], queries, candidates[rows:]]),
    )
    all_queries = torch.cat([first, second[:rows]]) if symmetric else first
    return all_queries, torch.cat([second[:rows], first, second[rows:]]), mask


def _info_nce(
    first: Tensor, second: Tensor, logit_scale: Tensor, symmetric: bool, excluded: NegativeMask
) -> Tensor:
    rows = len(first)
    # logits in bf16 would round similarities at a scale of 100 to halves
    with torch.autocast(first.device.type, enabled=False):
        first, second = first.float(), second.float()
        parts = [
            _chunk(first, second, logit_scale, symmetric, excluded, start)
            for start in range(0, rows, CHUNK_ROWS)
        ]
        positives = torch.cat([part[0] for part in parts])  # (B,)
        over_second = torch.cat([part[1] for part in parts])  # (B,)
        loss = (over_second - positives).mean()
        if not symmetric:
            return loss
        over_first = torch.logsumexp(torch.stack([part[2] for part in parts]), dim=0)  # (B,)
        return (loss + (over_first - positives).mean()) / 2


def _chunk(
    first: Tensor, second: Tensor, logit_scale: Tensor, symmetric: bool, excluded: NegativeMask, start: int
) -> tuple[Tensor, Tensor, Tensor]:
    arguments = (first, second, logit_scale, symmetric, excluded, start)
    if len(first) <= CHUNK_ROWS:
        return _sums(*arguments)
    parts: tuple[Tensor, Tensor, Tensor] = checkpoint(
        _sums, *arguments, use_reentrant=False, preserve_rng_state=False
    )
    return parts


def _sums(
    first: Tensor, second: Tensor, logit_scale: Tensor, symmetric: bool, excluded: NegativeMask, start: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return for C rows of `first` the logits of positives (C,), log-sums over rows (C,) and columns (B,).

    The last one is empty unless the loss is symmetric.
    """
    rows = len(first)
    chunk = torch.arange(start, min(start + CHUNK_ROWS, rows), device=first.device)
    cosines = first[chunk] @ second.T  # (C, B + N)
    logits = logit_scale * cosines
    positives = logits.gather(1, chunk[:, None])[:, 0]
    mask = _row_mask(excluded, chunk)
    itself = chunk[:, None] == torch.arange(len(second), device=first.device)
    row_mask = _with_margin(mask, cosines, cosines.gather(1, chunk[:, None]), excluded.margin)
    over_second = torch.logsumexp(_masked(logits, row_mask, itself), dim=1)
    if not symmetric:
        return positives, over_second, positives[:0]
    positive_cosines = (first * second[:rows]).sum(dim=1)  # (B,)
    column_mask = _with_margin(
        None if mask is None else mask[:, :rows], cosines[:, :rows], positive_cosines, excluded.margin
    )
    over_first = torch.logsumexp(_masked(logits[:, :rows], column_mask, itself[:, :rows]), dim=0)
    return positives, over_second, over_first


@torch.no_grad()
def _with_margin(
    mask: Tensor | None, cosines: Tensor, positives: Tensor, margin: float | None
) -> Tensor | None:
    """Add to a mask the candidates that are nearer than the positive by more than a margin."""
    return mask if margin is None else _either_mask(mask, cosines > positives + margin)


def _row_mask(excluded: NegativeMask, rows: Tensor) -> Tensor | None:
    """Return the mask of candidates that share an identity with a row or are near to it by the guides.

    (C, B + N), or None if nothing is known.
    """
    mask: Tensor | None = None
    if excluded.identities is not None and excluded.candidate_identities is not None:
        mask = _shared_identity(excluded.identities[rows], excluded.candidate_identities)
    if excluded.guides is not None and excluded.guide_cosine is not None:
        is_near = excluded.guides[rows] @ excluded.guides.T >= excluded.guide_cosine
        mask = _either_mask(mask, is_near)
    return mask


def _shared_identity(rows: Tensor, candidates: Tensor) -> Tensor:
    """Return the mask (C, B + N) of candidates that share an identity with a row.

    Few do, so identities are looked up among the sorted identities of all candidates.
    """
    identities = rows.flatten()
    ordered, positions = candidates.flatten().sort()
    first = torch.searchsorted(ordered, identities)
    counts = torch.searchsorted(ordered, identities, right=True) - first
    counts[identities < 0] = 0
    begin = counts.cumsum(0) - counts
    within = torch.arange(int(counts.sum()), device=rows.device) + (first - begin).repeat_interleave(counts)
    row = torch.arange(len(identities), device=rows.device).repeat_interleave(counts) // rows.shape[1]
    mask = torch.zeros(len(rows), len(candidates), dtype=torch.bool, device=rows.device)
    mask[row, positions[within] // candidates.shape[1]] = True
    return mask


def _either_mask(mask: Tensor | None, other: Tensor) -> Tensor:
    return other if mask is None else mask | other


def _masked(logits: Tensor, excluded: Tensor | None, itself: Tensor) -> Tensor:
    return logits if excluded is None else logits.masked_fill(excluded & ~itself, float("-inf"))
