"""Masked next token prediction, MNTP (LLM2Vec)."""

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
    """Return a function from hidden states (M, d) to logits (M, V), frozen unless the head is tied.

    Args:
        folder: Folder of the language model.
        encoder: Loaded from the same folder; a tied head uses its token embeddings.

    Raises:
        ValueError: the folder has no head.
    """
    causal, missing, _ = read_model(folder, AutoModelForCausalLM)
    if missing:
        raise ValueError(
            f"{folder} has no head that predicts tokens ({missing[0]}); expected a causal language model"
        )
    softcap: float | None = getattr(causal.config, "final_logit_softcapping", None)
    is_tied = causal.get_output_embeddings().weight is causal.get_input_embeddings().weight
    output_layer = causal.get_output_embeddings().to(encoder.device).requires_grad_(False)

    def logits(hidden: Tensor) -> Tensor:
        weight = encoder.model.get_input_embeddings().weight if is_tied else output_layer.weight  # type: ignore[operator]
        scores = F.linear(hidden, weight, output_layer.bias)
        return softcap * torch.tanh(scores / softcap) if softcap else scores

    return logits


def mask_token(tokenizer: Any, text: str) -> int:  # noqa: ANN401 - types of transformers are not ours
    """Return the id of the mask token.

    Raises:
        ValueError: the text is not one token that the tokenizer knows.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        return ids[0]
    raise ValueError(f"the mask {text!r} is {len(ids)} tokens, or an unknown one; expected one token")


@dataclass(frozen=True)
class Gapped(Tokens):
    """A text with masked tokens to predict: `gaps` has a flag for each of `ids`."""

    gaps: tuple[bool, ...] = ()


def with_gaps(rows: list[Tokens], masked_share: float) -> list[Gapped]:
    """Draw which tokens are masked (arXiv 2404.05961, section 2.2), by torch's global generator.

    Each token of a text is masked with probability `masked_share`. Tokens before and after the text are not
    masked, nor is a first token, which no position could predict.
    """
    return [_gapped(row, flags) for row, flags in zip(rows, draw_tokens(rows, masked_share), strict=True)]


def _gapped(row: Tokens, flags: list[bool]) -> Gapped:
    before, after = [False] * row.text_start, [False] * (len(row.ids) - row.text_end)
    gaps = (False, *[*before, *flags, *after][1:])
    return Gapped(row.ids, row.text_start, row.text_end, row.is_cut, gaps)


def masked_loss(
    encoder: TextEncoder, head: Callable[[Tensor], Tensor], rows: list[Gapped], mask: int
) -> Tensor:
    """Return the summed cross-entropy of masked tokens, each predicted by the position before it.

    Args:
        encoder: In training mode, with bidirectional attention.
        head: From `load_head`.
        rows: From `with_gaps`.
        mask: Id of the mask token.
    """
    ids, real, _ = pad(rows)
    masked = on_the_left([row.gaps for row in rows], False)
    hidden = hidden_states(
        encoder.model, ids.masked_fill(masked, mask).to(encoder.device), real.to(encoder.device)
    )
    predicting = hidden[:, :-1][masked[:, 1:].to(hidden.device)]
    targets = ids[:, 1:][masked[:, 1:]].to(hidden.device)
    return F.cross_entropy(head(predicting).float(), targets, reduction="sum")
