"""Attention over padded keys: the same vectors, only where that is so, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from components.ml.text.attention import check_attention, hidden_states
from components.ml.text.encoder import TextEncoder, load_text_encoder
from components.ml.text.padded_attention import LANES, padded_keys
from tests.captioned import write_llm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llm")
    write_llm(path, ["a red circle", "two dogs play in the snow"] * 5)
    return path


def load(folder: Path, attention: str = "bidirectional") -> TextEncoder:
    return load_text_encoder(folder, attention=attention, pooling="mean", template="{text}", max_tokens=64)


def implementation(model: nn.Module) -> object:
    return model.config._attn_implementation  # type: ignore[union-attr]


@pytest.mark.parametrize("length", [1, LANES - 1, LANES, LANES + 1, 40])
@pytest.mark.parametrize("padding", [0, 1, 5])
@torch.inference_mode()
def test_it_changes_no_vector(folder: Path, length: int, padding: int) -> None:
    model = load(folder).model
    ids = torch.randint(5, 20, (3, length + padding), generator=torch.Generator().manual_seed(1))
    real = torch.ones_like(ids, dtype=torch.bool)
    real[1:, :padding] = False
    plain = hidden_states(model, ids, real)
    with padded_keys(model):
        assert implementation(model) == "padded_keys"
        padded = hidden_states(model, ids, real)
    torch.testing.assert_close(padded[real], plain[real], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_it_attends_both_ways_and_ends_with_the_block(folder: Path) -> None:
    model = load(folder).model
    with pytest.raises(RuntimeError), padded_keys(model):
        check_attention(model, "bidirectional")
        raise RuntimeError
    assert implementation(model) == "sdpa"


def test_what_is_no_fit_stays_as_it_is(folder: Path) -> None:
    causal, both = load(folder, "causal").model, load(folder).model
    with padded_keys(both):  # with gradients
        assert implementation(both) == "sdpa"
    both.set_attn_implementation("eager")  # type: ignore[operator]
    with torch.inference_mode(), padded_keys(causal), padded_keys(both):
        assert (implementation(causal), implementation(both)) == ("sdpa", "eager")


@torch.inference_mode()
def test_half_precision_by_autocast(folder: Path) -> None:
    model = load(folder).model
    ids = torch.arange(5, 20).unsqueeze(0)
    with torch.autocast("cpu", torch.bfloat16):
        plain = hidden_states(model, ids, torch.ones_like(ids, dtype=torch.bool)).float()
        with padded_keys(model):
            padded = hidden_states(model, ids, torch.ones_like(ids, dtype=torch.bool)).float()
    assert float(torch.nn.functional.cosine_similarity(plain, padded, dim=-1).min()) > 0.999
