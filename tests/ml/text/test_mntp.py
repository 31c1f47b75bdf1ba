"""Masked next token prediction: the loss by its definition, and that it teaches a model to fill gaps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from components.ml.text.encoder import TextEncoder, load_text_encoder, tokenise
from components.ml.text.mntp import load_head, mask_token, masked_loss, with_gaps
from tests.captioned import write_llm

TEXTS = ["a red circle and a blue square", "a blue square and a red circle", "two dogs play in the snow"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_llm(tmp_path, TEXTS * 3)
    return tmp_path


def load(folder: Path) -> TextEncoder:
    return load_text_encoder(
        folder, attention="bidirectional", pooling="mean", template="{text}", max_tokens=64
    )


def test_each_masked_token_is_told_by_the_position_before_it(folder: Path) -> None:
    encoder = load(folder)
    head, mask = load_head(folder, encoder), mask_token(encoder.tokenizer, "a")
    rows = tokenise(encoder, TEXTS[:1])
    torch.manual_seed(3)
    start, end = rows[0].text_start, rows[0].text_end
    is_masked = torch.zeros(1, len(rows[0].ids), dtype=torch.bool)
    is_masked[0, start:end] = torch.rand(end - start) < 0.4
    assert 0 < int(is_masked.sum()) < len(rows[0].ids)
    ids = torch.tensor([rows[0].ids])
    states = encoder.model(input_ids=ids.masked_fill(is_masked, mask)).last_hidden_state[0]
    expected = sum(
        F.cross_entropy(head(states[place - 1][None]), ids[0, place][None])
        for place in is_masked[0].nonzero()[:, 0].tolist()
    )
    torch.manual_seed(3)
    torch.testing.assert_close(masked_loss(encoder, head, with_gaps(rows, 0.4), mask), expected)


def test_what_stands_around_a_text_is_never_masked(folder: Path) -> None:
    encoder = load_text_encoder(
        folder, attention="bidirectional", pooling="mean", template="red {text} blue square", max_tokens=64
    )
    rows = tokenise(encoder, ["two dogs", "two dogs play in the snow"])
    told: list[Tensor] = []

    def head(states: Tensor) -> Tensor:
        told.append(states)
        return states @ encoder.model.get_input_embeddings().weight.T  # type: ignore[operator]

    masked_loss(encoder, head, with_gaps(rows, 1.0), mask_token(encoder.tokenizer, "a"))
    assert len(told[0]) == sum(row.text_end - row.text_start for row in rows)


def test_a_first_token_is_never_masked_and_padding_moves_no_gap(folder: Path) -> None:
    encoder = load(folder)
    head, mask = load_head(folder, encoder), mask_token(encoder.tokenizer, "a")
    bare = [replace(row, ids=row.ids[row.text_start :], text_start=0, text_end=len(row.ids) - row.text_start)
            for row in tokenise(encoder, TEXTS)]  # fmt: skip
    rows = with_gaps(bare, 1.0)
    assert [row.gaps for row in rows] == [(False, *(True,) * (len(row.ids) - 1)) for row in bare]
    alone = sum(masked_loss(encoder, head, [row], mask) for row in rows)
    torch.testing.assert_close(masked_loss(encoder, head, rows, mask), alone)


def test_an_untied_head_is_the_models_own_and_stays(folder: Path) -> None:
    from safetensors.torch import load_file

    encoder = load(folder)
    states = torch.randn(2, encoder.dimension)
    weight = load_file(folder / "model.safetensors")["lm_head.weight"]
    head = load_head(folder, encoder)
    torch.testing.assert_close(head(states), states @ weight.T)
    masked_loss(encoder, head, with_gaps(tokenise(encoder, TEXTS), 0.5), 5).backward()
    assert encoder.model.get_input_embeddings().weight.grad is not None  # type: ignore[operator]


@pytest.fixture
def tied(folder: Path) -> Path:
    from transformers import AutoModelForCausalLM

    causal = AutoModelForCausalLM.from_pretrained(folder)
    causal.config.tie_word_embeddings = True
    causal.tie_weights()
    causal.save_pretrained(folder)
    return folder


def test_a_tied_head_is_the_embeddings_that_learn(tied: Path) -> None:
    encoder = load(tied)
    head, states = load_head(tied, encoder), torch.randn(2, encoder.dimension)
    before = head(states)
    with torch.no_grad():
        encoder.model.get_input_embeddings().weight.add_(1.0)  # type: ignore[operator]
    torch.testing.assert_close(head(states), before + states.sum(dim=1, keepdim=True))


def test_some_steps_teach_it_to_fill_gaps(tied: Path) -> None:
    encoder = load(tied)
    head, mask = load_head(tied, encoder), mask_token(encoder.tokenizer, "a")
    optimizer = torch.optim.AdamW(encoder.model.parameters(), lr=1e-2)
    rows = tokenise(encoder, TEXTS)

    def loss_at(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return masked_loss(encoder, head, with_gaps(rows, 0.3), mask)

    before = loss_at(1000).item()
    for step in range(80):
        optimizer.zero_grad()
        loss_at(step).backward()
        optimizer.step()
    assert loss_at(1000).item() < 0.5 * before


@pytest.mark.parametrize("text", ["\u4e16", "a red circle"])
def test_a_mask_is_one_token(folder: Path, text: str) -> None:
    with pytest.raises(ValueError, match="expected one token"):
        mask_token(load(folder).tokenizer, text)
