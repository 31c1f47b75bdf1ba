"""Joined models: the members' hidden states side by side, whatever the tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaModel, Qwen3Config, Qwen3Model

from components.ml.text.attention import hidden_states, set_attention
from components.ml.text.ensemble import joined

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
IDS = torch.tensor([[0, 0, 5, 9, 3], [7, 8, 9, 1, 2]])
REAL = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()


def llama(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = LlamaModel(LlamaConfig(**SIZES)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    set_attention(model, "bidirectional")
    return model


def turned(model: Any, order: Tensor) -> Any:
    """Return a model whose hidden numbers are those of another in another order."""
    other = llama()
    weights = {
        name: weight[order]
        if weight.dim() == 1 or name.endswith(("o_proj.weight", "down_proj.weight"))
        else weight[:, order]
        for name, weight in model.state_dict().items()
    }
    other.load_state_dict(weights)
    return other


@torch.no_grad()
def hidden(model: Any) -> Tensor:
    return hidden_states(model, IDS, REAL)[REAL]


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_its_states_are_those_of_the_members_side_by_side(attention: str) -> None:
    one = llama()
    order = torch.randperm(16)
    members = [one, turned(one, order), one]
    for model in members:
        set_attention(model, attention)
    whole = joined(members)
    assert whole.config.is_causal == (attention == "causal")
    expected = hidden(one)
    found = hidden(whole)
    assert found.shape == (8, 48)
    torch.testing.assert_close(found[:, :16], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[:, 16:32], expected[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[:, 32:], expected, rtol=1e-4, atol=1e-5)


def test_members_of_other_weights_come_out_in_their_own_place() -> None:
    """A change of one member moves its own numbers; the other's only by the common norm's scale."""
    one, other = llama(), llama(1)
    before = hidden(joined([one, other]))
    with torch.no_grad():
        other.layers[1].mlp.down_proj.weight.mul_(1.5)
    after = hidden(joined([one, other]))
    cosines = torch.nn.functional.cosine_similarity(before[:, :16], after[:, :16])
    assert float(cosines.min()) > 1 - 1e-5
    assert float(torch.nn.functional.cosine_similarity(before[:, 16:], after[:, 16:]).min()) < 0.999


def test_it_survives_saving(tmp_path: Path) -> None:
    whole = joined([llama(), llama(1)])
    whole.save_pretrained(tmp_path)
    again = LlamaModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(hidden(again), hidden(whole))
    assert again.config.head_dim == 4


def test_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="models of type qwen3 cannot be merged; expected one of llama"):
        joined([Qwen3Model(Qwen3Config(**SIZES, head_dim=4))])
