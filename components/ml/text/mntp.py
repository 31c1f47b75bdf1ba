"""Masked next token prediction (LLM2Vec)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from components.ml.text.attention import hidden_states
from components.ml.text.decoder import read_model
from components.ml.text.encoder import TextEncoder, draw_tokens, on_the_left, pad
from components.ml.text.template import Tokens


def load_head(folder: Path, encoder: TextEncoder) -> Callable[[Tensor], Tensor]:
    """Return what turns hidden states (M, d) into logits (M, V), frozen unless it is the token embeddings.

    Args:
        folder: The language model's.
        encoder: Of the same folder; where the head is tied, it is to this one's token embeddings.

    Raises:
        ValueError: the folder has no head.
    """
    causal, absent, _ = read_model(folder, AutoModelForCausalLM)
    if absent:
        raise ValueError(f"{folder} has no head that predicts tokens ({absent[0]})")
    softcap: float | None = getattr(causal.config, "final_logit_softcapping", None)
    is_tied = causal.get_output_embeddings().weight is causal.get_input_embeddings().weight
    own = causal.get_output_embeddings().to(encoder.device).requires_grad_(False)

    def logits(hidden: Tensor) -> Tensor:
        weight = encoder.model.get_input_embeddings().weight if is_tied else own.weight  # type: ignore[operator]
        scores = F.linear(hidden, weight, own.bias)
        return softcap * torch.tanh(scores / softcap) if softcap else scores

    return logits


def mask_token(tokenizer: Any, text: str) -> int:  # noqa: ANN401 - types of transformers are not ours
    """Return the token that stands for what is masked.

    Raises:
        ValueError: the text is not one token that the tokenizer knows.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        return ids[0]
    raise ValueError(f"the mask {text!r} is {len(ids)} tokens, or an unknown one; expected one token")


@dataclass(frozen=True)
class Gapped(Tokens):
    """A text some of whose tokens are to be told: `gaps` has a flag for each of `ids`."""

    gaps: tuple[bool, ...] = ()


def with_gaps(rows: list[Tokens], masked_share: float) -> list[Gapped]:
    """Draw which tokens are masked (arXiv 2404.05961, section 2.2), by torch's global generator.

    Each token of a text is, with a chance of `masked_share`; what comes before and after the text is not, nor
    is a first token, which no position comes before.
    """
    return [_gapped(row, of_text) for row, of_text in zip(rows, draw_tokens(rows, masked_share), strict=True)]


def _gapped(row: Tokens, of_text: list[bool]) -> Gapped:
    before, after = [False] * row.text_start, [False] * (len(row.ids) - row.text_end)
    gaps = (False, *[*before, *of_text, *after][1:])
    return Gapped(row.ids, row.text_start, row.text_end, row.is_cut, gaps)


def masked_loss(
    encoder: TextEncoder, head: Callable[[Tensor], Tensor], rows: list[Gapped], mask: int
) -> Tensor:
    """Return the summed cross-entropy of masked tokens, each told by the position before it.

    Args:
        encoder: In training mode, attending both ways.
        head: Of `load_head`.
        rows: Of `with_gaps`.
        mask: The token in their place.
    """
    ids, real, _ = pad(rows)
    masked = on_the_left([row.gaps for row in rows], False)
    hidden = hidden_states(
        encoder.model, ids.masked_fill(masked, mask).to(encoder.device), real.to(encoder.device)
    )
    before = hidden[:, :-1][masked[:, 1:].to(hidden.device)]
    told = ids[:, 1:][masked[:, 1:]].to(hidden.device)
    return F.cross_entropy(head(before).float(), told, reduction="sum")
