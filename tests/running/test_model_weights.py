"""What the headers of a model's files say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from components.running.model_weights import is_stored_in_bf16, weights_in

HALF, OTHER_HALF, WHOLE = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([[HALF, HALF]], True),
        ([[HALF], [HALF]], True),
        ([[HALF, WHOLE]], False),
        ([[HALF], [WHOLE]], False),
        ([[OTHER_HALF]], False),
        ([], False),
    ],
)
def test_all_weights_or_none_are_in_bf16(
    tmp_path: Path, files: list[list[torch.dtype]], expected: bool
) -> None:
    for place, kinds in enumerate(files):
        weights = {f"weight{number}": torch.zeros(2, 3, dtype=kind) for number, kind in enumerate(kinds)}
        save_file(weights, tmp_path / f"model-{place:05d}.safetensors")
    assert is_stored_in_bf16(tmp_path) is expected
    assert weights_in(tmp_path) == 6 * sum(map(len, files))
