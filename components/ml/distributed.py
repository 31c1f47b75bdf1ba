"""Collectives for training in several processes, with the loss and gradients of one process up to rounding.

Each process embeds its share of a batch. The embeddings are gathered, each process computes the whole loss
from them (cheap beside a language model), and the gradients of all shares are summed. One process is the
special case that needs no collective. Each process draws dropout for its share, so dropout depends on their
number.

If each process holds the whole model, gradients are summed once a step, after the last part of a batch.
DistributedDataParallel would sum them in each backward pass, of which a gradient cache has many.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    """Return the number of processes that train one model; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def share_of(rows: int) -> slice:
    """Return the rows of a batch for this process; all processes have equally many.

    Raises:
        ValueError: the rows cannot be shared equally.
    """
    if rows % world_size():
        raise ValueError(f"{rows} rows cannot be shared equally by {world_size()} processes")
    size = rows // world_size()
    return slice(rank() * size, (rank() + 1) * size)


def gather(own: Tensor, share: slice, rows: int) -> Tensor:
    """Return the rows (B, D) of all processes, without gradient; `own` are the rows of `share`."""
    if world_size() == 1:
        return own.detach()
    gathered = own.new_zeros(rows, *own.shape[1:])
    gathered[share] = own.detach()
    dist.all_reduce(gathered)  # rows of other processes are zeros, so the sum is exact
    return gathered


def all_reduce_sum(value: Tensor) -> Tensor:
    """Return the sum of a number over all processes."""
    if world_size() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value


def sum_gradients(weights: Iterable[Tensor]) -> None:
    """Sum gradients over all processes; FSDP has summed those of sharded weights already."""
    if world_size() == 1:
        return
    for weight in weights:
        if weight.grad is not None and not is_sharded(weight):
            dist.all_reduce(weight.grad)


def gradient_factor(weights: Iterable[Tensor]) -> float:
    """Return the factor for gradients before backward: FSDP averages gradients instead of summing them."""
    return float(world_size()) if any(is_sharded(weight) for weight in weights) else 1.0


def all_reduce_any(*flags: bool) -> list[bool]:
    """Return for each flag whether it is True in any process."""
    if world_size() == 1:
        return list(flags)
    reduced = torch.tensor(flags, dtype=torch.int32, device=_exchange_device())
    dist.all_reduce(reduced, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in reduced.tolist()]


def is_agreed(*numbers: int) -> bool:
    """Return True if all processes have the same numbers, of at most 63 bits."""
    if world_size() == 1:
        return True
    local = torch.tensor(numbers, device=_exchange_device())
    minimum, maximum = local.clone(), local.clone()
    dist.all_reduce(minimum, op=dist.ReduceOp.MIN)
    dist.all_reduce(maximum, op=dist.ReduceOp.MAX)
    return bool((minimum == maximum).all())


def _exchange_device() -> str:
    """Return the device of the tensors that the backend exchanges."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def shard(model: nn.Module, device: str) -> None:
    """Shard a model over all processes (FSDP2): each holds a part, and gathers a block when it runs.

    Args:
        model: A transformers model, which names its kinds of blocks; changed in place.
        device: `cpu` or `cuda`.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device, (world_size(),))
    blocks = set(getattr(model, "_no_split_modules", None) or ())
    for module in model.modules():
        if type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh)
    # between steps all weights are sharded, as optimizers and checkpoints expect
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def is_sharded(tensor: Tensor) -> bool:
    """Return True if this process holds only a part of a tensor."""
    if world_size() == 1:
        return False
    from torch.distributed.tensor import DTensor  # the import takes half a second

    return isinstance(tensor, DTensor)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor of a maybe sharded one; a collective that every process must call."""
    detached: Any = tensor.detach()
    return detached.full_tensor() if is_sharded(tensor) else detached


def placed_like(value: Tensor, like: Tensor) -> Tensor:
    """Return a full tensor placed like `like`: this process's part of it if `like` is sharded."""
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = like
    return distribute_tensor(value.to(like.device), sharded.device_mesh, sharded.placements)
