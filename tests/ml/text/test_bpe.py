"""The vocabulary: deterministic, lossless on text it knows, at ease with any language and hostile text."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from components.ml.text.bpe import BOS, EOS, train_bpe

TEXTS = [
    "A red circle, above the blue square.",
    "Ein roter Kreis über dem Quadrat",
    "一个男人在跑步",
    "two dogs play in the snow (winter)",
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_bpe(TEXTS * 5, 300, 24)


def test_equal_texts_give_equal_tokenizers(tokenizer: PreTrainedTokenizerFast) -> None:
    again = train_bpe(TEXTS * 5, 300, 24)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_the_lower_case_text_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text.lower()


def test_composed_and_decomposed_letters_are_equal(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer("über  DEM\nQuadrat")["input_ids"] == tokenizer("u\u0308ber dem Quadrat")["input_ids"]


@pytest.mark.parametrize(
    "text",
    ["👩\u200d👩\u200d👧", "\u202eمرحبا", "\u200b", "x" * 1_000_000],
    ids=["zwj", "rtl", "zwsp", "long"],
)
def test_hostile_texts_have_tokens_and_are_cut(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert 1 < len(tokenizer(text, truncation=True)["input_ids"]) <= 24


def test_special_tokens_in_a_text_are_text_when_asked(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer(f"a {EOS} {BOS} dog", split_special_tokens=True, add_special_tokens=False)["input_ids"]
    assert not {tokenizer.eos_token_id, tokenizer.bos_token_id} & set(ids)


def test_clip_pads_right_and_ends_with_eos() -> None:
    tokenizer = train_bpe(TEXTS, 100, 16, padding_side="right", ends_with_eos=True)
    short, long = tokenizer(["a", "a red circle"], padding=True)["input_ids"]
    assert short[-1] == tokenizer.pad_token_id
    assert short[short.index(tokenizer.pad_token_id) - 1] == tokenizer.eos_token_id
    assert long[-1] == tokenizer.eos_token_id != 2  # 2 makes transformers' CLIP pool elsewhere


def test_survives_saving(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.padding_side == "left"
    assert loaded.model_max_length == 24
    assert loaded(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
