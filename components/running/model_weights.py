"""How many weights a model in a folder has, without loading it."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

LENGTH_BYTES = 8  # before the header
METADATA = "__metadata__"


def weights_in(folder: Path) -> int:
    """Count the weights of a folder's safetensors files by their headers; 0 where there is none."""
    return sum(_weights_of(path) for path in sorted(folder.glob("*.safetensors")))


def _weights_of(path: Path) -> int:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(LENGTH_BYTES), "little")))
    return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != METADATA)
