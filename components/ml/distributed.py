"""Collectives for training in several processes: equal loss and gradient up to rounding.

Each embeds its share of a batch. The embeddings of all are put together, every process computes the whole
loss from them, which costs little beside a language model, and the gradients of all shares are summed. So one
process is the special case that needs none of it. Dropout within a model is drawn by each process for its
share, and so differs by their number.

Where each process holds the whole model, gradients are summed once a step, after the last part of a batch was
through: DistributedDataParallel would sum them in each backward pass, of which a gradient cache has many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_apart: list[bool] = []  # one entry for each `apart` that this process is in


def world_size() -> int:
    """Return how many processes train one model; 1 where nobody said otherwise."""
    return dist.get_world_size() if dist.is_initialized() and not _apart else 1


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return dist.get_rank() if dist.is_initialized() and not _apart else 0


@contextmanager
def without_process_group() -> Iterator[tuple[int, int]]:
    """Have each process train by itself within the block, a model that the others have no part in.

    Yields:
        How many processes there are, and the number of this one.
    """
    there = world_size(), rank()
    _apart.append(True)
    try:
        yield there
    finally:
        _apart.pop()


def share_of(rows: int) -> slice:
    """Return which of the rows of a batch are this process's; all have equally many.

    Raises:
        ValueError: they cannot.
    """
    if rows % world_size():
        raise ValueError(f"{rows} rows cannot be shared equally by {world_size()} processes")
    size = rows // world_size()
    return slice(rank() * size, (rank() + 1) * size)


def gather(own: Tensor, share: slice, rows: int) -> Tensor:
    """Return the rows (B, D) of all processes, without gradient; `own` are those of `share`."""
    if world_size() == 1:
        return own.detach()
    whole = own.new_zeros(rows, *own.shape[1:])
    whole[share] = own.detach()
    dist.all_reduce(whole)  # the others' rows are zeros: the sum is exact
    return whole


def all_reduce_sum(value: Tensor) -> Tensor:
    """Return the sum of a number over all processes."""
    if world_size() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value


def sum_gradients(weights: Iterable[Tensor]) -> None:
    """Sum the gradients of whole models over all processes; those of sharded ones are summed already."""
    if world_size() == 1:
        return
    for weight in weights:
        if weight.grad is not None and not is_sharded(weight):
            dist.all_reduce(weight.grad)


def gradient_factor(weights: Iterable[Tensor]) -> float:
    """Return what gradients are multiplied by before backward: FSDP takes their mean, not their sum."""
    return float(world_size()) if any(is_sharded(weight) for weight in weights) else 1.0


def all_reduce_any(*flags: bool) -> list[bool]:
    """Say of each flag whether it is up in any process."""
    if world_size() == 1:
        return list(flags)
    found = torch.tensor(flags, dtype=torch.int32, device=_meeting_place())
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in found.tolist()]


def is_agreed(*numbers: int) -> bool:
    """Say whether all processes have the same numbers, of 63 bits at most."""
    if world_size() == 1:
        return True
    own = torch.tensor(numbers, device=_meeting_place())
    least, most = own.clone(), own.clone()
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return bool((least == most).all())


def _meeting_place() -> str:
    """Return the device whose tensors the processes exchange."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def shard(model: nn.Module, device: str) -> None:
    """Spread a model over all processes (FSDP2): each holds a part, and brings a block together when it runs.

    Args:
        model: Of transformers, which names its kinds of blocks; changed in place.
        device: `cpu` or `cuda`.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device, (world_size(),))
    blocks = set(getattr(model, "_no_split_modules", None) or ())
    for module in model.modules():
        if type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh)
    # between steps every weight is a part, for optimizers, checkpoints and whoever lists the weights
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def is_sharded(tensor: Tensor) -> bool:
    """Say whether this process holds a part of a tensor only."""
    if world_size() == 1:
        return False
    from torch.distributed.tensor import DTensor  # half a second

    return isinstance(tensor, DTensor)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return all of a tensor, of which this process may hold a part; every process has to ask."""
    held: Any = tensor.detach()
    return held.full_tensor() if is_sharded(tensor) else held


def placed_like(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor as `like` is: this process's part of it, where that is sharded."""
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = like
    return distribute_tensor(value.to(like.device), sharded.device_mesh, sharded.placements)
