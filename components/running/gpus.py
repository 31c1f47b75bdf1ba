"""The GPUs of one machine: how many there are, and a process for each, which sees no other."""

from __future__ import annotations

import os
from pathlib import Path

from components.errors import ConfigurationError
from components.running.workers import usable_cores
from components.settings.environment import Environment

VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU that the driver has found


def gpus_in_use(env: Environment) -> int:
    """Return how many GPUs the stages work on; 0 where they work on the CPU.

    Raises:
        ConfigurationError: the device is cuda, and torch sees no GPU.
    """
    if env.device != "cuda":
        return 0
    import torch

    if found := torch.cuda.device_count():
        return found
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build for the CPU"
    raise ConfigurationError(
        f"LLM2CLIP_DEVICE is cuda, and torch {torch.__version__} ({build}) sees no GPU; expected one: "
        "unset it, look at nvidia-smi and CUDA_VISIBLE_DEVICES, or take a build for your CUDA by "
        "`make setup TORCH=...`"
    )


def known_gpus() -> int:
    """Return how many GPUs the driver of this machine knows, used or not; nothing of CUDA is asked for."""
    return len(list(DRIVER.glob("*")))


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
