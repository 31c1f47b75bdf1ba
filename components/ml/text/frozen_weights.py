"""Keep frozen weights in bf16 during LoRA training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from components.ml.distributed import is_sharded


@contextmanager
def frozen_in_bf16(model: nn.Module) -> Iterator[None]:
    """Keep the frozen weights of a model in bf16 within the block, and restore them after it.

    Activations between blocks are then bf16 too, which are most of a GPU's memory traffic. Trainable weights
    stay float32 and need autocast to meet bf16, so call the model under autocast within the block. Weights
    that bf16 cannot represent are kept on the CPU until the end; weights that are bf16 already stay so.

    Args:
        model: Model with a PEFT adapter. Weights that are sharded within the block are not restored.
    """
    from peft.helpers import disable_input_dtype_casting  # the import takes seconds

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
