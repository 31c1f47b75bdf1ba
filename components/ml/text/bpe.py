"""Train a byte-pair tokenizer in any language, for models that base_models makes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

# the id of <eos> is not 2: with 2, transformers' CLIP pools in a legacy way
PAD, UNKNOWN, BOS, EOS = SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")
MAX_TOKEN_CHARACTERS = 32  # so that a line without spaces never becomes one token


def train_bpe(
    texts: Iterable[str],
    vocabulary_size: int,
    max_tokens: int,
    *,
    padding_side: Literal["left", "right"] = "left",
    ends_with_eos: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a lower-casing BPE tokenizer; equal texts give an equal tokenizer.

    Text is converted to NFC and lower case, and runs of white space to one space. Tokens cross neither words
    nor punctuation. Decoding returns that text exactly, except characters never seen in training.

    Args:
        texts: Texts in any language.
        vocabulary_size: Most tokens; at most half of them single characters, the most frequent ones.
        max_tokens: Stored as `model_max_length`, where `truncation=True` cuts.
        padding_side: Left for decoders, right for CLIP.
        ends_with_eos: Add `<eos>` after the text, as CLIP needs it. `<bos>` always comes first.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        limit_alphabet=vocabulary_size // 2,
        max_token_length=MAX_TOKEN_CHARACTERS,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}" if ends_with_eos else f"{BOS} $A",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=BOS,
        eos_token=EOS,
        padding_side=padding_side,
        model_max_length=max_tokens,
        clean_up_tokenization_spaces=False,
    )
