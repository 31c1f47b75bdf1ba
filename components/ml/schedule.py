"""Learning rate and batch as functions of the step, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

SEED_STRIDE = 1_000_003  # between the seeds of two runs; the number of a step or epoch is added


def warmup_cosine(warmup_steps: int, steps: int) -> Callable[[int], float]:
    """Return the share of the peak learning rate at a step: linear rise, then half a cosine to zero."""

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))

    return share


def batch_rows(rows: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Return the row indices of a step's batch; each epoch has a new random order and drops its short batch.

    The order depends only on the arguments, so a resumed run continues where it stopped.
    """
    batch_size = min(batch_size, rows)
    epoch, number = divmod(step, rows // batch_size)
    return _epoch_order(rows, seed, epoch)[number * batch_size : (number + 1) * batch_size].clone()


@lru_cache(maxsize=8)  # one order for each kind of pair; 30 million rows take a second
def _epoch_order(rows: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed * SEED_STRIDE + epoch)
    return torch.randperm(rows, generator=generator)
