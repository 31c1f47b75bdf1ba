"""Every family of LLMs: loads, attends both ways, keeps its tokenizer's habits, learns, survives saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from components.ml.text.attention import hidden_states
from components.ml.text.encoder import TextEncoder, embed, encode, load_text_encoder, tokenise
from tests.language_models import FAMILIES, LAYERS, WINDOW

TEXTS = [
    "A red circle.",
    "two small dogs run over the green grass and a red beach",
    "Ein Hund 👩\u200d👧",
    "a",
]
BOS = {"llama3": "<|begin_of_text|>", "mistral": "<s>", "gemma": "<bos>"}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

Family = tuple[str, Path, str]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    write, template = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    write(folder)
    return request.param, folder, template


def load(family: Family, **changes: str) -> TextEncoder:
    settings: dict[str, Any] = {
        "attention": "bidirectional",
        "pooling": "mean",
        "template": family[2],
        **changes,
    }
    return load_text_encoder(family[1], max_tokens=64, **settings)


def close(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4 * float(first.abs().max()))


def test_attends_both_ways_and_causally_and_the_two_differ(family: Family) -> None:
    both, causal = (encode(load(family, attention=name), TEXTS, 512) for name in ("bidirectional", "causal"))
    assert float((both - causal).abs().max() / both.abs().max()) > 1e-3


def test_padding_and_company_change_nothing(family: Family) -> None:
    for pooling in ("mean", "last"):
        encoder = load(family, pooling=pooling)
        close(encode(encoder, TEXTS, 4096), torch.cat([encode(encoder, [text], 1) for text in TEXTS]))


def test_a_text_starts_as_the_family_starts_it(family: Family) -> None:
    name, _, template = family
    bos = next((token for start, token in BOS.items() if name.startswith(start)), None)
    encoder = load(family)
    for chat in (template, "{text}", f"{bos or ''}{template}"):
        encoder.template = chat
        (row,) = tokenise(encoder, ["<bos> red <|eot_id|> </s>"], "find the caption: ")
        tokens = encoder.tokenizer.convert_ids_to_tokens(row.ids)
        assert encoder.tokenizer.bos_token == bos
        assert [place for place, token in enumerate(tokens) if token == bos] == ([0] if bos else [])
        special = set(encoder.tokenizer.all_special_tokens)
        assert not special & set(tokens[row.text_start : -1])  # what a caption says of them is plain text
        assert (tokens[-1] in special) == (chat != "{text}")


def test_all_seven_projections_learn_and_the_merged_model_is_the_tuned_one(
    family: Family, tmp_path: Path
) -> None:
    encoder = load(family)
    config = LoraConfig(r=2, target_modules=PROJECTIONS, task_type="FEATURE_EXTRACTION")
    adapter = get_peft_model(encoder.model, config)
    learning = {name: weight for name, weight in adapter.named_parameters() if weight.requires_grad}
    assert len(learning) == LAYERS * len(PROJECTIONS) * 2
    torch.manual_seed(0)
    for weight in learning.values():
        torch.nn.init.normal_(weight, std=0.1)  # B starts at zero, where A has no gradient
    embed(encoder, tokenise(encoder, TEXTS)).square().sum().backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in learning.values())

    untuned, tuned = encode(load(family), TEXTS, 512), encode(encoder, TEXTS, 512)
    assert float((untuned - tuned).abs().max() / tuned.abs().max()) > 1e-3
    adapter.merge_and_unload().save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    close(encode(load((family[0], tmp_path, family[2])), TEXTS, 512), tuned)


def test_a_sliding_window_stays_one_to_both_sides(tmp_path: Path) -> None:
    FAMILIES["mistral"][0](tmp_path)
    model = load(("mistral", tmp_path, "{text}")).model
    tokens, reach = 12, LAYERS * WINDOW  # through all layers, each way
    base = torch.linspace(100, 300, tokens).long()
    rows = base.repeat(tokens, 1) + 5 * torch.eye(tokens, dtype=torch.long)  # each changes one token
    ids = torch.cat([base.unsqueeze(0), rows])
    with torch.no_grad():
        hidden = hidden_states(model, ids, torch.ones_like(ids, dtype=torch.bool))  # (1 + T, T, d)
    moved = (hidden[1:] - hidden[0]).abs().amax(-1) > 1e-6  # (T, T): by the token that was changed
    places = torch.arange(tokens)
    assert (moved == ((places[:, None] - places).abs() <= reach)).all()
