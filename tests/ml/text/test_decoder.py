"""What is no whole decoder is refused by the headers of its files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig, BertModel, Gemma3Config, Gemma3Model, T5Config, T5Model

from components.ml.text.decoder import check_decoder, load_decoder
from tests.language_models import FAMILIES, gemma_tokenizer, write_gemma3, write_llama3, write_llama32

PROJECTION = "model.layers.1.self_attn.q_proj.weight"


def changed(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """Put other weights in the place of some, none for None."""
    path = folder / "model.safetensors"
    weights = {**load_file(path), **changes}
    kept = {name: weight for name, weight in weights.items() if weight is not None}
    save_file(kept, path, metadata={"format": "pt"})


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_passes(name: str, tmp_path: Path) -> None:
    FAMILIES[name][0](tmp_path)
    check_decoder(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({PROJECTION: None}, "1 weights are missing or of another shape (layers.1.self_attn.q_proj.weight"),
        (
            {PROJECTION: torch.zeros(32, 31)},
            "1 weights are missing or of another shape (('layers.1.self_attn",
        ),
        ({"model.norm.weight": None, "model.embed_tokens.weight": None}, "2 weights are missing"),
    ],
)
def test_weights_that_are_not_there_or_of_another_shape_are_named(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    write_llama3(tmp_path)
    changed(tmp_path, changes)
    for load in (check_decoder, load_decoder):
        with pytest.raises(ValueError, match=re.escape(message)):
            load(tmp_path)


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_weights_that_the_config_knows_nothing_of_are_named(tmp_path: Path, prefix: str) -> None:
    write_llama3(tmp_path)
    if not prefix:
        AutoModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    more = [f"{prefix}layers.1.self_attn.q_proj.bias", f"{prefix}layers.2.self_attn.q_proj.weight"]
    changed(tmp_path, {f"{prefix}rotary_emb.inv_freq": torch.zeros(4), "value_head.weight": torch.zeros(4)})
    check_decoder(tmp_path)
    changed(tmp_path, {name: torch.zeros(32) for name in more})
    for load in (check_decoder, load_decoder):
        with pytest.raises(
            ValueError, match=r"2 weights do not fit .*1\.self_attn\.q_proj\.bias, .*layers\.2\."
        ):
            load(tmp_path)


def test_no_weight_is_read(tmp_path: Path) -> None:
    write_llama32(tmp_path)
    path = tmp_path / "model.safetensors"
    size = path.stat().st_size
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    with path.open("r+b") as file:
        file.truncate(header)
        file.truncate(size)  # zeros, of which a norm would make nothing but zeros
    check_decoder(tmp_path)
    assert not load_decoder(tmp_path)[1].norm.weight.any()


def test_names_without_the_prefix_and_without_the_output_layer_are_fine(tmp_path: Path) -> None:
    write_llama3(tmp_path)
    AutoModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert PROJECTION not in load_file(tmp_path / "model.safetensors")
    check_decoder(tmp_path)


def test_a_tokenizer_of_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    write_llama3(tmp_path)
    gemma_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the tokenizer has .* tokens, the model embeds"):
        check_decoder(tmp_path)


def test_what_is_no_decoder_of_text_is_refused(tmp_path: Path) -> None:
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower = {**small, "image_size": 28, "patch_size": 14}
    text = {**small, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 400}
    models = {
        "bert": BertModel(BertConfig(**small, vocab_size=400)),
        "t5": T5Model(T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=400)),
        "gemma3": Gemma3Model(Gemma3Config(text_config=text, vision_config=tower)),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        gemma_tokenizer().save_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match=f"a model of type {name}; expected a text-only decoder"):
            check_decoder(tmp_path / name)


def test_a_config_of_another_size_is_refused(tmp_path: Path) -> None:
    write_llama3(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with pytest.raises(ValueError, match="6 weights are missing or of another shape"):
        check_decoder(tmp_path)


def test_what_is_computed_from_the_config_is_not_rounded_with_the_weights(tmp_path: Path) -> None:
    write_gemma3(tmp_path, hidden_size=72)  # of which the root, Gemma's scale, is 0.2 % off in bf16
    (_, exact), (_, halved) = load_decoder(tmp_path), load_decoder(tmp_path, torch.bfloat16)
    assert {weight.dtype for weight in halved.parameters()} == {torch.bfloat16}
    buffers = dict(halved.named_buffers())
    assert float(buffers["embed_tokens.embed_scale"]) == pytest.approx(72**0.5, rel=1e-6)
    for name, buffer in exact.named_buffers():
        assert torch.equal(buffers[name], buffer), name
