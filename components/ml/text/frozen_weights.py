"""Keep frozen weights in bf16 during LoRA training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from components.ml.distributed import is_sharded


@contextmanager
def frozen_in_bf16(model: nn.Module) -> Iterator[None]:
    """Hold the weights of a model that do not learn in bf16 within the block, and as before after it.

    What passes between blocks is then bf16 too, which is most of what a GPU moves. Those that learn stay
    float32 and meet bf16 under autocast alone, so whoever calls the model within the block needs that. What
    bf16 cannot hold is kept on the CPU until the end; weights that are in bf16 already stay as they are.

    Args:
        model: With a PEFT adapter. One that is sharded within the block stays as it is then.
    """
    from peft.helpers import disable_input_dtype_casting  # seconds

    exact: dict[str, Tensor] = {}
    frozen = [
        name
        for name, weight in model.named_parameters()
        if not weight.requires_grad and weight.dtype is not torch.bfloat16
    ]
    for name in frozen:
        weight = model.get_parameter(name)
        rounded = weight.data.bfloat16()
        if not torch.equal(rounded.float(), weight.data):
            exact[name] = weight.data.cpu()
        weight.data = rounded
    try:
        with disable_input_dtype_casting(model):
            yield
    finally:
        for name in frozen:
            weight = model.get_parameter(name)
            if not is_sharded(weight):
                weight.data = exact[name].to(weight.device) if name in exact else weight.data.float()
