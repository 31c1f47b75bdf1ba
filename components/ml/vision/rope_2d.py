"""Rotary positions in two dimensions, as EVA02 has them (Su et al. 2021; arXiv 2303.11331)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROTARY_BASE = 10000.0  # Su et al. 2021, section 3.2.2


def rotations(config: Any, device: torch.device | None = None) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return cosines and sines (patches, head width) of the rotary positions, float32, row by row.

    The first half of a head turns by a patch's row, the second by its column; neighbours (2i, 2i + 1) turn
    together. Positions are scaled so that any grid spans the `rotary_grid` cells of pretraining.
    """
    side = config.image_size // config.patch_size
    width = config.hidden_size // config.num_attention_heads // 2  # of each of the two directions
    exponents = torch.arange(0, width, 2, device=device).float() / width
    cells = torch.arange(side, device=device).float() / side * config.rotary_grid
    angles = (cells[:, None] / ROTARY_BASE**exponents).repeat_interleave(2, dim=1)  # (side, width)
    rows = angles[:, None].expand(side, side, width)
    columns = angles[None].expand(side, side, width)
    both = torch.cat([rows, columns], dim=-1).flatten(0, 1)  # (patches, head width)
    return both.cos(), both.sin()


def rotate(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn queries or keys (B, heads, 1 + patches, head width) by a patch's angles, not the class token."""
    patches = states[:, :, 1:]
    turned = torch.stack([-patches[..., 1::2], patches[..., ::2]], dim=-1).flatten(-2)
    moved = (patches * cosines + turned * sines).to(states.dtype)
    return torch.cat([states[:, :, :1], moved], dim=2)
