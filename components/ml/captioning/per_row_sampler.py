"""Sampling in which each row of a batch is independent of the others."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor


class SeededDraws(LogitsProcessor):
    """Draws each row's next token by the row's own random numbers, and leaves that token alone.

    A row's number u in [0, 1) picks the token at which the cumulated softmax passes u. transformers' own
    sampling takes one generator for the whole batch: what an image gets would depend on its neighbours.

    Args:
        seeds: One a row.
        steps: At most so many tokens.
        temperature: Logits are divided by it.
    """

    def __init__(self, seeds: list[int], steps: int, temperature: float) -> None:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._numbers = torch.stack(
            [torch.rand(steps, generator=generator, dtype=torch.float64) for generator in generators]
        )  # (B, steps)
        self._temperature = temperature
        self._step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (B, V) of which one a row is 0 and all others are minus infinity."""
        cumulated = (scores.double() / self._temperature).softmax(-1).cumsum(-1)  # (B, V)
        numbers = self._numbers[:, self._step, None].to(scores.device) * cumulated[:, -1:]
        self._step += 1
        chosen = torch.searchsorted(cumulated, numbers, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)
