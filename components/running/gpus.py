"""Several GPUs of one machine: a process for each, which sees no other."""

from __future__ import annotations

import os

from components.running.workers import usable_cores
from components.settings.environment import Environment

VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpu_of(place: int) -> str:
    """Return the name of a GPU by its place among those that this process may use."""
    names = [name for name in os.environ.get(VISIBLE, "").split(",") if name]
    return names[place] if names else str(place)


def use_only(gpu: str) -> None:
    """Have this process see one GPU; called before anything of CUDA is asked for."""
    os.environ[VISIBLE] = gpu


def share_of(env: Environment, parts: int) -> Environment:
    """Return an environment with one of so many equal shares of the cores."""
    return env.model_copy(update={"processes": max(1, (env.processes or usable_cores()) // parts)})
