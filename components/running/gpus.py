"""GPUs of one machine: count them, and bind a process to one of them."""

from __future__ import annotations

import os
from pathlib import Path

from components.errors import ConfigurationError
from components.running.workers import usable_cores
from components.settings.environment import Environment

VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER = Path("/proc/driver/nvidia/gpus")  # one folder for each GPU that the driver has found


def gpus_in_use(env: Environment) -> int:
    """Return the number of GPUs that stages use; 0 on the CPU.

    Raises:
        ConfigurationError: the device is cuda, but torch sees no GPU.
    """
    if env.device != "cuda":
        return 0
    import torch

    if count := torch.cuda.device_count():
        return count
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build for the CPU"
    raise ConfigurationError(
        f"LLM2CLIP_DEVICE is cuda, and torch {torch.__version__} ({build}) sees no GPU; expected one: "
        "unset it, check nvidia-smi and CUDA_VISIBLE_DEVICES, or install a build for your CUDA by "
        "`make setup TORCH=...`"
    )


def known_gpus() -> int:
    """Return the number of GPUs that the driver of this machine knows, used or not; does not load CUDA."""
    return len(list(DRIVER.glob("*")))


def gpu_of(index: int) -> str:
    """Return the name of a GPU by its index among those that this process may use."""
    names = [name for name in os.environ.get(VISIBLE, "").split(",") if name]
    return names[index] if names else str(index)


def use_only(gpu: str) -> None:
    """Make this process see only one GPU; call it before CUDA is loaded."""
    os.environ[VISIBLE] = gpu


def share_of(env: Environment, parts: int) -> Environment:
    """Return an environment with one of `parts` equal shares of the cores."""
    return env.model_copy(update={"processes": max(1, (env.processes or usable_cores()) // parts)})
