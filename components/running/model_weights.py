"""What tells a model in a folder, and how many weights it has, without loading it."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

WEIGHT_BYTES = {"fp32": 4, "bf16": 2}  # of a weight in memory, whatever it is stored in
CONFIGS = ("config.json", "open_clip_config.json")  # either; EVA02 has the second on the hub


def weights_in(folder: Path) -> int:
    """Count the weights of a folder's safetensors files by their headers; 0 where there is none.

    Raises:
        SafetensorError: one is damaged.
    """
    return sum(prod(shape) for _, shape in _headers(folder))


def is_stored_in_bf16(folder: Path) -> bool:
    """Say by the headers of a folder's safetensors files whether all weights are there in bf16, and no other.

    Raises:
        SafetensorError: one is damaged.
    """
    return {kind for kind, _ in _headers(folder)} == {"BF16"}


def _headers(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield the kind and the shape of each weight."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            for key in file.keys():  # noqa: SIM118 - no mapping
                weight = file.get_slice(key)
                yield weight.get_dtype(), weight.get_shape()
