"""The text encoder: attention proved, pooling by hand, no trace of padding, texts that mean harm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.ml.text.attention import attention_that_learns, check_attention, hidden_states, set_attention
from components.ml.text.encoder import TextEncoder, encode, load_text_encoder, pool, token_batches, tokenise
from tests.captioned import write_llm

TEXTS = ["A red circle.", "two dogs play in the snow with a ball and a child", "Ein Hund", "a", "dogs " * 30]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llm")
    write_llm(path, TEXTS * 3)
    return path


def load(folder: Path, **changes: object) -> TextEncoder:
    settings: dict[str, object] = {
        "attention": "bidirectional",
        "pooling": "mean",
        "template": "{text}",
        "max_tokens": 64,
        **changes,
    }
    return load_text_encoder(folder, **settings)  # type: ignore[arg-type]


def test_pooling_by_hand() -> None:
    hidden = torch.tensor([[[9.0, 9.0], [1.0, 2.0], [3.0, 6.0]]])
    pooled = torch.tensor([[False, True, True]])
    assert pool(hidden, pooled, "mean").tolist() == [[2.0, 4.0]]
    assert pool(hidden, pooled, "last").tolist() == [[3.0, 6.0]]
    assert pool(hidden, torch.tensor([[True, True, False]]), "last").tolist() == [[1.0, 2.0]]


def test_a_causal_model_fails_the_probe(folder: Path) -> None:
    model = load(folder).model
    check_attention(model, "bidirectional")
    set_attention(model, "causal")
    with pytest.raises(ValueError, match="token 0 moves by 0.0e\\+00 .* not bidirectional"):
        check_attention(model, "bidirectional")
    check_attention(model, "causal")


def test_a_model_that_is_causal_only_where_rows_are_padded_fails_the_probe(folder: Path) -> None:
    # the flag on the layers instead of the config: the kernel then attends both ways unless a mask is given
    model = load(folder, attention="causal").model
    for layer in model.layers:  # type: ignore[union-attr]
        layer.self_attn.is_causal = False
    with pytest.raises(ValueError, match="with padding|not bidirectional"):
        check_attention(model, "bidirectional")


def test_the_attention_that_learns_is_the_same_and_left_again(folder: Path) -> None:
    model = load(folder).model
    ids, real = torch.arange(8).view(1, 8), torch.ones(1, 8, dtype=torch.bool)
    kernel = model.config._attn_implementation  # type: ignore[union-attr]
    fused = hidden_states(model, ids, real)
    with attention_that_learns(model, "bf16"):
        assert model.config._attn_implementation == "eager" != kernel  # type: ignore[union-attr]
        torch.testing.assert_close(hidden_states(model, ids, real), fused, rtol=1e-4, atol=1e-5)
        check_attention(model, "bidirectional")
    with attention_that_learns(model, "fp32"):
        assert model.config._attn_implementation == kernel  # type: ignore[union-attr]
    assert model.config._attn_implementation == kernel  # type: ignore[union-attr]


def test_the_flag_survives_saving(folder: Path, tmp_path: Path) -> None:
    encoder = load(folder)
    encoder.model.save_pretrained(tmp_path)  # type: ignore[operator]
    assert json.loads((tmp_path / "config.json").read_text())["is_causal"] is False


def test_padding_and_company_change_nothing(folder: Path) -> None:
    for pooling in ("mean", "last"):
        encoder = load(folder, pooling=pooling)
        together = encode(encoder, TEXTS, 4096)
        alone = torch.cat([encode(encoder, [text], 1) for text in TEXTS])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_order_follows_the_texts_and_progress_counts_them(folder: Path) -> None:
    encoder, counts = load(folder), list[int]()
    forward = encode(encoder, TEXTS, 80, progress=counts.append)
    backward = encode(encoder, TEXTS[::-1], 80)
    torch.testing.assert_close(forward, backward.flip(0), rtol=1e-4, atol=1e-5)
    assert sum(counts) == len(TEXTS)
    assert len(counts) > 1


def test_batches_hold_to_their_tokens() -> None:
    lengths = [5, 1, 9, 3, 3, 30]
    batches = list(token_batches(lengths, 12))
    assert sorted(row for batch in batches for row in batch) == list(range(6))
    assert batches[0] == [5]
    assert all(max(lengths[row] for row in batch) * len(batch) <= 12 for batch in batches[1:])


def test_header_and_prompt_are_left_out_of_pooling(folder: Path) -> None:
    encoder = load(folder, template="<bos>user: {text}<eos>")
    document, query = (
        tokenise(encoder, ["A red circle."], prompt)[0] for prompt in ("", "find a caption like ")
    )
    assert document.ids[document.text_start :] == query.ids[query.text_start :]
    assert document.ids[-1] == encoder.tokenizer.eos_token_id
    assert document.ids.count(encoder.tokenizer.bos_token_id) == 1
    assert query.text_start > document.text_start > 1


def test_special_tokens_in_a_caption_are_plain_text(folder: Path) -> None:
    encoder = load(folder)
    (row,) = tokenise(encoder, ["a <eos> <bos> <pad> dog"])
    assert not {0, 2, 3} & set(row.ids[row.text_start :])


def test_hostile_captions_have_finite_vectors(folder: Path) -> None:
    texts = ["👩\u200d👩\u200d👧", "\u202eمرحبا", "\u200b", "\u0301", "x" * 1_000]
    vectors = encode(load(folder), texts, 4096)
    assert torch.isfinite(vectors).all()
    assert bool((vectors.norm(dim=1) > 0).all())


def test_a_megabyte_is_cut(folder: Path) -> None:
    (row,) = tokenise(load(folder, template="say: {text} end"), ["word " * 200_000])
    assert len(row.ids) == 64
    assert row.is_cut
    (few,) = tokenise(load(folder), ["\u200b" * 64 * 70 + "dogs"])  # few tokens, and no end
    assert few.is_cut
    fits, cut = tokenise(load(folder, max_tokens=5), ["dogs dogs", "dogs dogs dogs dogs dogs dogs"])
    assert (fits.is_cut, cut.is_cut, len(cut.ids)) == (False, True, 5)


def test_the_start_of_a_text_is_read_whatever_the_tokenizer_prefers(folder: Path, tmp_path: Path) -> None:
    text = TEXTS[1]
    expected = tokenise(load(folder, max_tokens=5), [text])
    shutil.copytree(folder, tmp_path / "left")
    path = tmp_path / "left" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "truncation_side": "left"}))
    assert tokenise(load(tmp_path / "left", max_tokens=5), [text]) == expected


def test_bf16_is_close_and_no_texts_are_no_rows(folder: Path) -> None:
    encoder = load(folder)
    cosines = torch.nn.functional.cosine_similarity(
        encode(encoder, TEXTS, 256, "bf16"), encode(encoder, TEXTS, 256)
    )
    assert float(cosines.min()) > 0.999
    assert encode(encoder, [], 256).shape == (0, 32)


def test_weights_in_bf16_take_half_the_bytes_and_give_about_the_same(folder: Path) -> None:
    whole, half = load(folder), load(folder, precision="bf16")
    assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}
    cosines = torch.nn.functional.cosine_similarity(
        encode(half, TEXTS, 256, "bf16"), encode(whole, TEXTS, 256)
    )
    assert float(cosines.min()) > 0.999


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": 100_000}, "expected at most 192, the context of"),
        ({"max_tokens": 3, "template": "user: {text} end"}, "expected room for a text"),
        (
            {"max_tokens": 9, "query_prompts": {"a_to_b": "find a caption like this"}},
            "expected room for a text",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(folder, **changes)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not found"):
        load(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no language model"):
        load(tmp_path)


@pytest.mark.parametrize("fault", ["missing", "nan"])
def test_damaged_weights_are_refused(tmp_path: Path, fault: str) -> None:
    write_llm(tmp_path, TEXTS)
    path = tmp_path / "model.safetensors"
    weights: dict[str, Tensor] = load_file(path)
    name = "model.layers.1.self_attn.q_proj.weight"
    if fault == "missing":
        del weights[name]
    else:
        weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="weights are (missing|damaged)"):
        load(tmp_path)


def test_a_released_model_loads_and_encodes(shared: Path) -> None:
    encoder = load(shared / "data" / "models" / "stories260K", max_tokens=128)
    texts = ["A dog runs.", "Hello </s> there <s> dog", "👩\u200d👧 مرحبا", "a b " * 300]
    vectors = encode(encoder, texts, 512)
    assert vectors.shape == (4, 64)
    alone = torch.cat([encode(encoder, [text], 1) for text in texts])
    torch.testing.assert_close(vectors, alone, rtol=1e-4, atol=1e-4)
    (row,) = tokenise(encoder, ["Hello </s> <s>"])
    assert not {1, 2} & set(row.ids[row.text_start :])
