"""Linear head on image embeddings: one score an image, such as LAION's aesthetics or safety."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

NAMES = {"weight", "bias"}


@dataclass(frozen=True)
class LinearHead:
    """`weight` (D,) and `bias`, for embeddings of length 1."""

    weight: Tensor
    bias: float

    def scores(self, embeddings: Tensor) -> Tensor:
        """Return (N,) of embeddings (N, D), float32."""
        return embeddings.float() @ self.weight + self.bias


def load_linear_head(path: Path, width: int) -> LinearHead:
    """Load a head from safetensors: `weight` (1, D) or (D,), and `bias` of one number.

    Args:
        path: The file.
        width: D of the embeddings.

    Raises:
        ValueError: the file is no safetensors, holds other tensors, has another width, or is not finite.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path} is no safetensors file ({reason}); expected one with weight and bias"
        ) from None
    if tensors.keys() != NAMES:
        names = ", ".join(sorted(tensors)) or "nothing"
        raise ValueError(
            f"{path} holds {names}; expected weight and bias: a head with several layers is not linear"
        )
    weight, bias = tensors["weight"], tensors["bias"]
    if weight.shape not in {(width,), (1, width)} or bias.numel() != 1:
        raise ValueError(
            f"{path} has weight {tuple(weight.shape)} and bias {tuple(bias.shape)}; expected (1, {width}) "
            "and (1,): a head for the base CLIP in use, whose embeddings have that width"
        )
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise ValueError(f"{path} holds NaN or infinite numbers; expected none")
    return LinearHead(weight.reshape(width), float(bias))
