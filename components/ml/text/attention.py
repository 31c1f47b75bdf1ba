"""Bidirectional attention of a decoder, and a check that it took effect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

PROBE_TOKENS = 6
PROBE_PADDING = 3
SMALLEST_MOVE = 1e-6  # of token 0, as a share of the largest hidden value; a causal model changes by 0


def set_attention(model: nn.Module, attention: str) -> None:
    """Set in the model's config, which is saved with it, whether a token sees later tokens.

    transformers (from 5.2) chooses masks and kernels by this flag; see `check_attention`.
    """
    model.config.is_causal = attention == "causal"  # type: ignore[union-attr]


@torch.no_grad()
def check_attention(model: nn.Module, attention: str) -> None:
    """Check the attention: token 0 changes with the last token if and only if it is bidirectional.

    Some architectures silently ignore `config.is_causal`, some only for padded rows, so both are tried.

    Raises:
        ValueError: the model attends in the other way, or gives values that are not finite.
    """
    vocabulary: int = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    # from the middle of the vocabulary: tokens at its ends may have no embedding
    text = torch.linspace(vocabulary // 4, vocabulary // 2, PROBE_TOKENS).long()
    changed = text.clone()
    changed[-1] = 3 * vocabulary // 4
    device = next(model.parameters()).device
    for padding in (0, PROBE_PADDING):
        ids = torch.stack([text, changed]).to(device)
        ids = nn.functional.pad(ids, (padding, 0))
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[:, :padding] = False
        hidden = hidden_states(model, ids, mask)[:, padding]  # (2, d): token 0
        if not torch.isfinite(hidden).all():
            raise ValueError("the language model gives NaN or infinite values: its weights are damaged")
        change = float((hidden[0] - hidden[1]).abs().max() / hidden.abs().max().clamp(min=1e-30))
        if (change > SMALLEST_MOVE) != (attention == "bidirectional"):
            raise ValueError(
                f"token 0 moves by {change:.1e} of its size when the last token changes"
                f"{' (with padding)' if padding else ''}: the model's attention is not {attention}; "
                "choose another encoding.attention or a model that transformers can switch"
            )


@contextmanager
def attention_that_learns(model: nn.Module, precision: str) -> Iterator[None]:
    """Use the attention kernel with the faster backward pass within the block.

    In bf16 on a CPU, torch's fused kernel takes 13 ms for any backward pass, even of short texts; plain
    matrix products take 1 to 3 ms.
    """
    kernel: str = model.config._attn_implementation  # type: ignore[union-attr, assignment]
    if precision != "bf16" or next(model.parameters()).device.type != "cpu":
        yield
        return
    model.set_attn_implementation("eager")  # type: ignore[operator]
    try:
        yield
    finally:
        model.set_attn_implementation(kernel)  # type: ignore[operator]


def hidden_states(model: nn.Module, ids: Tensor, real: Tensor) -> Tensor:
    """Return the last hidden states (B, T, d) of token ids (B, T); `real` (B, T) is False for padding."""
    positions = (real.long().cumsum(1) - 1).clamp(min=0)  # padding does not shift positions
    states: Tensor = model(
        input_ids=ids, attention_mask=real.long(), position_ids=positions, use_cache=False
    ).last_hidden_state
    return states
