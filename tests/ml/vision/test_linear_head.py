"""A head is arithmetic; a file that is no such head is told apart and never run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from components.ml.vision.linear_head import load_linear_head

WIDTH = 4


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:  # noqa: ANN401 - pickle's protocol
        return Path.touch, (self.path,)


@pytest.mark.parametrize(("shape", "bias"), [((1, WIDTH), (1,)), ((WIDTH,), ())])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_scores_by_hand(
    tmp_path: Path, shape: tuple[int, ...], bias: tuple[int, ...], dtype: torch.dtype
) -> None:
    weight = torch.tensor([1.0, 2.0, 0.0, -1.0], dtype=dtype).reshape(shape)
    save_file({"weight": weight, "bias": torch.full(bias, 0.5, dtype=dtype)}, tmp_path / "head.safetensors")
    head = load_linear_head(tmp_path / "head.safetensors", WIDTH)
    assert head.scores(torch.eye(WIDTH)).tolist() == [1.5, 2.5, 0.5, -0.5]
    assert head.scores(torch.empty(0, WIDTH)).tolist() == []


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.zeros(1, 8), "bias": torch.zeros(1)}, r"weight \(1, 8\).*expected \(1, 4\)"),
        ({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, r"weight \(2, 4\)"),
        ({"weight": torch.tensor([1.0, torch.nan, 0, 0]), "bias": torch.zeros(1)}, "NaN"),
        ({"weight": torch.zeros(4), "bias": torch.tensor([torch.inf])}, "infinite"),
        ({"weight": torch.zeros(4)}, "holds weight; expected weight and bias"),
        ({"layers.0.weight": torch.zeros(4), "layers.0.bias": torch.zeros(1)}, "holds layers.0.bias"),
    ],
)
def test_what_is_no_head_is_named(tmp_path: Path, tensors: dict[str, Tensor], message: str) -> None:
    save_file(tensors, tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match=message):
        load_linear_head(tmp_path / "head.safetensors", WIDTH)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    path, canary = tmp_path / "head.safetensors", tmp_path / "fired"
    for data in (pickle.dumps(Canary(canary)), b"", b"\x00" * 64):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is no safetensors file"):
            load_linear_head(path, WIDTH)
    torch.save({"weight": Canary(canary)}, path)
    with pytest.raises(ValueError, match="is no safetensors file"):
        load_linear_head(path, WIDTH)
    assert not canary.exists()
