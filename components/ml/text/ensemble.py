"""Merge several decoders into one that computes all of them side by side."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

KINDS = ("llama",)
# config values that are multiplied by the number of members
WIDTHS = ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")
EMBEDDINGS = "embed_tokens.weight"


def check_joinable(model: Any) -> None:  # noqa: ANN401 - a model of transformers
    """Check that models of this type can be merged.

    Raises:
        ValueError: they cannot.
    """
    if model.config.model_type not in KINDS:
        raise ValueError(
            f"models of type {model.config.model_type} cannot be merged; expected one of {', '.join(KINDS)}"
        )


@torch.no_grad()
def joined(models: Sequence[Any]) -> Any:  # noqa: ANN401 - models of transformers
    """Return one model whose hidden state of a token (K * d) concatenates those of K models (d).

    Its matrices are block-diagonal. Only norms are not exact: they divide by the root mean square over all
    members instead of each member. So the hidden states of members should be of about equal size, as they are
    when all were tuned from one model.

    Args:
        models: Models of one shape and vocabulary, on the CPU, as is the result.

    Raises:
        ValueError: the models cannot be merged.
    """
    first = models[0]
    check_joinable(first)
    config = copy.deepcopy(first.config)
    for name in WIDTHS:
        setattr(config, name, len(models) * getattr(first.config, name))
    merged = type(first)(config)
    member_weights = [dict(model.named_parameters()) for model in models]
    for name, weight in merged.named_parameters():
        weight.copy_(_merged_weight(name, [weights[name] for weights in member_weights]))
    return merged


def _merged_weight(name: str, parts: list[Tensor]) -> Tensor:
    if name == EMBEDDINGS:
        return torch.cat(parts, dim=1)
    return torch.cat(parts) if parts[0].dim() == 1 else torch.block_diag(*parts)
