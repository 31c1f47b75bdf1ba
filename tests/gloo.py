"""Several processes that meet over gloo, for what no single one can show."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

TIMEOUT = timedelta(seconds=60)  # of one exchange: a process that waits for nobody fails the test


def in_processes(count: int, work: Callable[[], Any], folder: Path) -> list[Any]:
    """Return what `work`, a function that is imported by name or a partial of one, returns in each process.

    What it returns is of tensors and plain values. They meet by a file in `folder`, so no port is taken.
    """
    spawn(_joined, args=(count, work, folder), nprocs=count)
    return [torch.load(_said(folder, place), weights_only=True) for place in range(count)]


def _joined(place: int, count: int, work: Callable[[], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", meeting, TIMEOUT, world_size=count, rank=place)
    try:
        torch.save(work(), _said(folder, place))
    finally:
        dist.destroy_process_group()


def _said(folder: Path, place: int) -> Path:
    return folder / f"{place}.pt"
