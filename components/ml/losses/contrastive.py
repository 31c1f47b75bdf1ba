"""Contrastive losses, in chunks: a B x B matrix of logits is never held for backward."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ROWS = 1024


@dataclass(frozen=True)
class NegativeMask:
    """Which candidates are no negatives of a row, though they are not its positive.

    Attributes:
        identities: (B, K) integers, what row i is about: its texts, its image. None: nothing is known.
        candidate_identities: (B + N, K) integers of the candidates. Where a row and a candidate share any,
            the candidate is left out; the row's own positive never is. Numbers below 0 are shared by nobody.
        guides: (B + N, d), rows of length 1: what another model makes of the candidates' texts. Where the
            cosine of a row's positive and a candidate is `guide_cosine` or more, the candidate is left out.
        guide_cosine: None: guides are not looked at.
        margin: A candidate whose cosine exceeds that of the row's positive by more than this is left out as
            well (arXiv 2506.05176, section 3.1). None: none is.
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
        excluded: Captions that are no negatives of an image. None: all others are.
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
    """Return CLIP's symmetric InfoNCE where an image has several captions and there are further negatives.

    Each caption of an image is a positive of its own (as in SupCon's outer sum, arXiv 2004.11362, equation
    2): it competes with the captions of other images and with the further negatives, never with the image's
    other captions. Back, each caption looks for its image among all images. With one caption an image and no
    further negatives this is `clip_loss`, to the bit.

    Args:
        image_embeddings: (B, D), rows of length 1.
        text_embeddings: (B * k + N, D), rows of length 1: the k captions of each image, image by image, then
            N captions of other images.
        logit_scale: 1/temperature, a scalar; gradients reach it.
        captions_each: k.
        excluded: Captions that are no negatives of an image. `identities` are (B, K), one row an image,
            `candidate_identities` and `guides` have a row a caption; by the guides a caption is left out
            that is near to any of the image's own. A margin is not looked at.
    """
    if len(image_embeddings) == len(text_embeddings):
        return clip_loss(image_embeddings, text_embeddings, logit_scale, excluded)
    known = excluded or NegativeMask()
    arguments = (image_embeddings.float(), text_embeddings.float(), logit_scale, captions_each, known)
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
        positives, over_texts = (torch.cat([part[number] for part in parts]) for number in range(2))  # (B, k)
        over_images = torch.logsumexp(torch.stack([part[2] for part in parts]), dim=0)  # (B * k,)
        return ((over_texts - positives).mean() + (over_images - positives.flatten()).mean()) / 2


def _image_sums(
    images: Tensor, texts: Tensor, logit_scale: Tensor, captions_each: int, excluded: NegativeMask, start: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return for C images positives (C, k), log-sums over texts (C, k), and those over images (B * k,)."""
    rows = torch.arange(start, min(start + CHUNK_ROWS, len(images)), device=images.device)
    own = (rows[:, None] * captions_each + torch.arange(captions_each, device=images.device)).flatten()
    logits = logit_scale * (images[rows] @ texts.T)  # (C, B * k + N)
    positives = logits.gather(1, own.view(len(rows), captions_each))
    is_own = rows[:, None] == torch.arange(len(texts), device=images.device) // captions_each
    is_own[:, len(images) * captions_each :] = False
    left_out = _known_of_images(excluded, rows, own, captions_each)
    others = logits.masked_fill(_either(left_out, is_own), float("-inf"))
    over_texts = torch.logaddexp(positives, torch.logsumexp(others, dim=1, keepdim=True))
    of_captions = logits if left_out is None else logits.masked_fill(left_out & ~is_own, float("-inf"))
    return positives, over_texts, torch.logsumexp(of_captions[:, : len(images) * captions_each], dim=0)


def _known_of_images(excluded: NegativeMask, rows: Tensor, own: Tensor, captions_each: int) -> Tensor | None:
    """Return which captions are no negatives of which images (C, B * k + N); None where nothing is known."""
    found: Tensor | None = None
    if excluded.identities is not None and excluded.candidate_identities is not None:
        found = _sharing(excluded.identities[rows], excluded.candidate_identities)
    if excluded.guides is not None and excluded.guide_cosine is not None:
        near = excluded.guides[own] @ excluded.guides.T >= excluded.guide_cosine
        found = _either(found, near.view(len(rows), captions_each, -1).any(dim=1))
    return found


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
        second: (B + N, D), rows of length 1: their B positives, and N more that are negatives of every query.
            All other rows are negatives.
        temperature: tau, by which cosines are divided.
        symmetric: Average it with the same loss from the positives to `first`.
        same_side: The other rows of `first` are negatives of a query as well, and all other rows of `second`
            those of a positive (arXiv 2308.03281, section 3.2, with each side's sum of its own).
        excluded: Candidates that are no negatives. None: all are.
    """
    known = excluded or NegativeMask()
    if same_side:
        first, second, known = _from_both_sides(first, second, known, symmetric)
        symmetric = False  # the mean over rows from both sides is that of both directions
    return _info_nce(first, second, torch.as_tensor(1 / temperature), symmetric, known)


def _from_both_sides(
    first: Tensor, second: Tensor, excluded: NegativeMask, symmetric: bool
) -> tuple[Tensor, Tensor, NegativeMask]:
    """Return queries, candidates and what is excluded, where the queries are candidates too."""
    rows = len(first)
    nobody = torch.full((len(second), 1), -1, device=first.device)
    queries = nobody[:rows] if excluded.identities is None else excluded.identities
    candidates = nobody if excluded.candidate_identities is None else excluded.candidate_identities
    above_all = 1 + max(int(queries.max()), int(candidates.max()))
    itself = above_all + torch.arange(rows, device=first.device)[:, None]  # no text is a negative of itself
    queries = torch.cat([queries, itself], dim=1)
    candidates = torch.cat([candidates, torch.cat([itself, nobody[rows:]])], dim=1)
    known = replace(
        excluded,
        identities=torch.cat([queries, candidates[:rows]]) if symmetric else queries,
        candidate_identities=torch.cat([candidates[:rows], queries, candidates[rows:]]),
    )
    asking = torch.cat([first, second[:rows]]) if symmetric else first
    return asking, torch.cat([second[:rows], first, second[rows:]]), known


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
    """Return for C rows of `first` their positives' logits (C,), log-sums over rows (C,) and columns (B,).

    The last is empty where it is not asked for.
    """
    rows = len(first)
    here = torch.arange(start, min(start + CHUNK_ROWS, rows), device=first.device)
    cosines = first[here] @ second.T  # (C, B + N)
    logits = logit_scale * cosines
    positives = logits.gather(1, here[:, None])[:, 0]
    known = _known(excluded, here)
    itself = here[:, None] == torch.arange(len(second), device=first.device)
    of_rows = _near(known, cosines, cosines.gather(1, here[:, None]), excluded.margin)
    over_second = torch.logsumexp(_without(logits, of_rows, itself), dim=1)
    if not symmetric:
        return positives, over_second, positives[:0]
    every = (first * second[:rows]).sum(dim=1)  # (B,)
    of_columns = _near(None if known is None else known[:, :rows], cosines[:, :rows], every, excluded.margin)
    over_first = torch.logsumexp(_without(logits[:, :rows], of_columns, itself[:, :rows]), dim=0)
    return positives, over_second, over_first


@torch.no_grad()
def _near(known: Tensor | None, cosines: Tensor, own: Tensor, margin: float | None) -> Tensor | None:
    """Add to what is excluded the candidates that are nearer than a positive is by more than a margin."""
    return known if margin is None else _either(known, cosines > own + margin)


def _known(excluded: NegativeMask, here: Tensor) -> Tensor | None:
    """Return which candidates share an identity with which of the rows, or are as near by the guides' word.

    (C, B + N), or None where nothing is known.
    """
    found: Tensor | None = None
    if excluded.identities is not None and excluded.candidate_identities is not None:
        found = _sharing(excluded.identities[here], excluded.candidate_identities)
    if excluded.guides is not None and excluded.guide_cosine is not None:
        near = excluded.guides[here] @ excluded.guides.T >= excluded.guide_cosine
        found = _either(found, near)
    return found


def _sharing(rows: Tensor, candidates: Tensor) -> Tensor:
    """Return (C, B + N) which candidates share an identity with which rows.

    Few do: they are looked up among the sorted ones of all candidates, not compared one by one.
    """
    wanted = rows.flatten()
    ordered, places = candidates.flatten().sort()
    first = torch.searchsorted(ordered, wanted)
    counts = torch.searchsorted(ordered, wanted, right=True) - first
    counts[wanted < 0] = 0
    begin = counts.cumsum(0) - counts
    within = torch.arange(int(counts.sum()), device=rows.device) + (first - begin).repeat_interleave(counts)
    of_row = torch.arange(len(wanted), device=rows.device).repeat_interleave(counts) // rows.shape[1]
    found = torch.zeros(len(rows), len(candidates), dtype=torch.bool, device=rows.device)
    found[of_row, places[within] // candidates.shape[1]] = True
    return found


def _either(one: Tensor | None, other: Tensor) -> Tensor:
    return other if one is None else one | other


def _without(logits: Tensor, excluded: Tensor | None, itself: Tensor) -> Tensor:
    return logits if excluded is None else logits.masked_fill(excluded & ~itself, float("-inf"))
