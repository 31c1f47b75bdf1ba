"""Special tokens in a text are text, for tokenizers of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from components.base_models.llm import token_blocks
from components.ml.text.plain_text import framed_ids, holds_special, spelled_out, text_ids
from components.ml.text.template import wrap
from components.ml.vision.clip import save_clip_tokenizer
from tests.language_models import llama3_tokenizer, mistral_tokenizer, qwen_tokenizer
from tests.ml.towers import tiny_tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MARKS = "<>/[]|_!"


def fast(tokenizer: Tokenizer, start: str, end: str, **roles: str) -> PreTrainedTokenizerFast:
    names = [name for name in (start, end) if name]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}".strip(),
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in names],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def unigram() -> PreTrainedTokenizerFast:
    """As T5, SigLIP and XLM-R: the words of special tokens stand in the vocabulary."""
    words = ["<pad>", "</s>", "<unk>", "\u2581", *LETTERS, *MARKS]
    tokenizer = Tokenizer(models.Unigram([(word, -float(n > 2)) for n, word in enumerate(words)], unk_id=2))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return fast(tokenizer, "", "</s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def wordpiece(pre_tokenizer: Any) -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *LETTERS, *MARKS, *(f"##{one}" for one in LETTERS + MARKS)]
    tokenizer = Tokenizer(models.WordPiece({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizer
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return fast(tokenizer, "[CLS]", "[SEP]", mask_token="[MASK]", **roles)


def byte_level(*, whole_words: bool = False, special: bool = True) -> PreTrainedTokenizerFast:
    """As CLIP's own: one token is bos's, another one end, padding and unknown."""
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = Tokenizer(
        models.BPE(vocab={w: n for n, w in enumerate(words)}, merges=[], ignore_merges=whole_words)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not whole_words)
    if not special:
        tokenizer.add_tokens([AddedToken(word, special=False) for word in words[-2:]])
    start, end = words[-2:]
    roles = {"bos_token": start, "eos_token": end, "pad_token": end, "unk_token": end}
    return fast(tokenizer, start, end, **roles)


def padded_with_a_character() -> PreTrainedTokenizerFast:
    tokenizer = byte_level()
    tokenizer.pad_token = "!"
    return tokenizer


KINDS: dict[str, Callable[[], Any]] = {
    "ours": tiny_tokenizer,
    "unigram": unigram,
    "wordpiece": lambda: wordpiece(pre_tokenizers.BertPreTokenizer()),
    "wordpiece by spaces": lambda: wordpiece(pre_tokenizers.WhitespaceSplit()),
    "byte level": byte_level,
    "byte level, whole words": lambda: byte_level(whole_words=True),
    "byte level, not flagged": lambda: byte_level(special=False),
    "padded with a character": padded_with_a_character,
    "llama 3": llama3_tokenizer,
    "qwen": qwen_tokenizer,
    "mistral": mistral_tokenizer,
}
ORDINARY = [
    "a red circle",
    "  two  dogs ",
    "x",
    "A (small) dog_s 5 < 6 / 7",
    "\u732b\u72ac and \u00e9",
    "no! no",
    "a" * 99,
]


def special_ids(tokenizer: Any) -> set[int]:
    unknown = {tokenizer.unk_token_id} - {tokenizer.eos_token_id}
    return {number for number in tokenizer.all_special_ids if len(tokenizer.decode([number])) > 1} - unknown


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [None, 20])
def test_ordinary_texts_have_the_ids_that_transformers_gives(kind: str, most: int | None) -> None:
    tokenizer = KINDS[kind]()
    texts = [text for text in ORDINARY if "!" not in text or kind != "padded with a character"]
    how: dict[str, Any] = {"truncation": most is not None, "max_length": most}
    assert framed_ids(tokenizer, texts, most) == tokenizer(texts, **how)["input_ids"]
    assert spelled_out(tokenizer, texts) == texts
    assert not holds_special(tokenizer, texts)
    assert text_ids(tokenizer, [], most) == []


@pytest.mark.parametrize("kind", KINDS)
def test_no_special_token_comes_out_of_a_text_and_what_follows_counts(kind: str) -> None:
    tokenizer = KINDS[kind]()
    special = special_ids(tokenizer)
    for word in tokenizer.all_special_tokens:
        for form in ("a{}b", "a {} b", "{}", "a {}{} b", "a {} {} b {}"):
            first, second = (form.replace("{}", word) + end for end in (" dog", " cat"))
            ids, other = text_ids(tokenizer, [first, second], None)
            assert special.isdisjoint(ids), (word, form)
            assert ids != other
            assert holds_special(tokenizer, [first])
            spelled = tokenizer(spelled_out(tokenizer, [first]), add_special_tokens=False)["input_ids"][0]
            assert special.isdisjoint(spelled), (word, form)
            (row,) = wrap(tokenizer, [first], "{text}", "", 200)
            assert special.isdisjoint(row.ids[row.text_start : row.text_end])


def test_what_a_normaliser_makes_a_special_token_of_is_text_too() -> None:
    tokenizer = unigram()
    assert special_ids(tokenizer).isdisjoint(text_ids(tokenizer, ["a \uff1c/s\uff1e b"], None)[0])


def test_a_cut_is_of_the_text_alone_and_leaves_no_setting_behind() -> None:
    tokenizer = unigram()
    (row,) = framed_ids(tokenizer, ["a </s> " * 50], 12)
    assert len(row) == 12
    assert row.count(tokenizer.eos_token_id) == 1
    assert row[-1] == tokenizer.eos_token_id
    assert tokenizer.backend_tokenizer.truncation is None
    with pytest.raises(ValueError, match="the tokenizer puts 1 tokens around a text"):
        framed_ids(tokenizer, ["a"], 1)


def test_a_language_model_that_is_made_here_learns_such_words_as_text() -> None:
    tokenizer = tiny_tokenizer()
    blocks = token_blocks(tokenizer, ["a <eos> red", "two"], 1000)
    assert blocks.flatten().tolist().count(tokenizer.bos_token_id) == 2
    assert blocks.flatten().tolist().count(tokenizer.eos_token_id) == 4  # its own, and one after each


@pytest.mark.parametrize("kind", ["ours", "byte level"])
def test_plain_transformers_reads_a_saved_tokenizer_likewise(kind: str, tmp_path: Path) -> None:
    tokenizer = KINDS[kind]()
    texts = [*ORDINARY, *(f"a {word} b" for word in tokenizer.all_special_tokens)]
    tokenizer(texts, truncation=True, max_length=3, padding=True)
    save_clip_tokenizer(tokenizer, tmp_path)
    assert not tokenizer.split_special_tokens
    tree = json.loads((tmp_path / "tokenizer.json").read_text())
    assert (tree["truncation"], tree["padding"]) == (None, None)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    assert saved(texts)["input_ids"] == framed_ids(tokenizer, texts, None)
