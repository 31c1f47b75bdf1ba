"""Merge several decoders into one that computes all of them side by side."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

KINDS = ("llama",)
# of a config: what is as many times as large
WIDTHS = ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")
EMBEDDINGS = "embed_tokens.weight"


def check_joinable(model: Any) -> None:  # noqa: ANN401 - a model of transformers
    """Check that models of this kind can be joined.

    Raises:
        ValueError: they cannot.
    """
    if model.config.model_type not in KINDS:
        raise ValueError(
            f"models of type {model.config.model_type} cannot be joined; expected one of {', '.join(KINDS)}"
        )


@torch.no_grad()
def joined(models: Sequence[Any]) -> Any:  # noqa: ANN401 - models of transformers
    """Return one model whose hidden state of a token (K * d) is those of K models (d), one behind the other.

    Its matrices are block-diagonal. All but one thing is exact: a norm divides by the root mean square over
    all members' numbers, not over a member's own. So members should give a token about equal sizes, as those
    do that were tuned from one model.

    Args:
        models: Of one shape and vocabulary, on the CPU; so is the new one.

    Raises:
        ValueError: they cannot be joined.
    """
    first = models[0]
    check_joinable(first)
    config = copy.deepcopy(first.config)
    for name in WIDTHS:
        setattr(config, name, len(models) * getattr(first.config, name))
    whole = type(first)(config)
    of_members = [dict(model.named_parameters()) for model in models]
    for name, weight in whole.named_parameters():
        weight.copy_(_side_by_side(name, [one[name] for one in of_members]))
    return whole


def _side_by_side(name: str, parts: list[Tensor]) -> Tensor:
    if name == EMBEDDINGS:
        return torch.cat(parts, dim=1)
    return torch.cat(parts) if parts[0].dim() == 1 else torch.block_diag(*parts)
