"""What tells a model in a folder, and how many weights it has, without loading it."""

from __future__ import annotations

from math import prod
from pathlib import Path

WEIGHT_BYTES = {"fp32": 4, "bf16": 2}  # of a weight in memory, whatever it is stored in
CONFIGS = ("config.json", "open_clip_config.json")  # either; EVA02 has the second on the hub


def weights_in(folder: Path) -> int:
    """Count the weights of a folder's safetensors files by their headers; 0 where there is none.

    Raises:
        SafetensorError: one is damaged.
    """
    return sum(_weights_of(path) for path in sorted(folder.glob("*.safetensors")))


def is_stored_in_bf16(folder: Path) -> bool:
    """Say by the headers of a folder's safetensors files whether all weights are there in bf16, and no other.

    Raises:
        SafetensorError: one is damaged.
    """
    return set().union(*(_kinds_of(path) for path in folder.glob("*.safetensors"))) == {"BF16"}


def _kinds_of(path: Path) -> set[str]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 - no mapping


def _weights_of(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return sum(prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 - no mapping
