"""Tiny decoders of random weights, one of each family, with tokenizers that do as the family's do.

Each is saved in Hugging Face layout by transformers itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaTokenizer,
    LlamaConfig,
    LlamaTokenizer,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Tokenizer,
    Qwen3Config,
)

WORDS = [
    "A red circle on a white beach.",
    "Two small dogs run over the green grass",
    "find the caption: user",
]
MAX_TOKENS = 256
LAYERS = 2
WINDOW = 4  # tokens, where a family has a sliding window
# split as by Llama 3 and Qwen: contractions, words with what stands before them, numbers, the rest
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA3_CHAT = "<|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>"
QWEN_CHAT = "<|im_start|>user\n{text}<|im_end|>"
GEMMA_CHAT = "<start_of_turn>user\n{text}<end_of_turn>"
MISTRAL_CHAT = "[INST] {text}[/INST]"


def _byte_level(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(WORDS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def _sentencepiece(special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return a vocabulary and merges over characters and bytes, with spaces as `▁`."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=390, special_tokens=[*special, *BYTES], show_progress=False)
    tokenizer.train_from_iterator(WORDS, trainer)
    return _learned(tokenizer)


def _learned(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tree = json.loads(tokenizer.to_str())["model"]
    return tree["vocab"], [tuple(merge) for merge in tree["merges"]]


def llama3_tokenizer() -> PreTrainedTokenizerFast:
    """No unknown token, no padding token; bos by the post-processor of tokenizer.json."""
    bos = "<|begin_of_text|>"
    special = [bos, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = _byte_level(special)
    template = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos}:1 $B:1",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token="<|eot_id|>",
        clean_up_tokenization_spaces=True,
        model_input_names=["input_ids", "attention_mask"],
    )


def qwen_tokenizer() -> Any:
    """No bos, no unknown token; NFC."""
    vocabulary, merges = _learned(_byte_level([]))
    tokenizer = Qwen2Tokenizer(
        vocab={**vocabulary, "<|endoftext|>": len(vocabulary)},
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
    )
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


def mistral_tokenizer() -> Any:
    """SentencePiece's way: a space before each text, bytes for what is unknown, bos."""
    vocabulary, merges = _sentencepiece(["<unk>", "<s>", "</s>", "[INST]", "[/INST]"])
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)
    tokenizer.add_special_tokens({"extra_special_tokens": ["[INST]", "[/INST]"]})
    return tokenizer


def gemma_tokenizer() -> Any:
    """No space before a text, bytes for what is unknown, bos."""
    vocabulary, merges = _sentencepiece(
        ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    )
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    return tokenizer


SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": MAX_TOKENS,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def _write(folder: Path, kind: Any, tokenizer: Any, **settings: Any) -> None:
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad")
    }
    config = kind(**{**SHAPE, "vocab_size": len(tokenizer), **special, **settings})
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config)
    for weights in model.parameters():
        if weights.ndim > 1:  # loud enough that a token makes a difference to all others
            torch.nn.init.normal_(weights, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_llama3(folder: Path) -> None:
    """Llama 3: a wide rope, an output layer of its own."""
    rope = {"rope_type": "default", "rope_theta": 5e5}
    _write(folder, LlamaConfig, llama3_tokenizer(), rope_parameters=rope, tie_word_embeddings=False)


def write_llama32(folder: Path) -> None:
    """Llama 3.1 and 3.2: a scaled rope; the output layer is the embeddings, as in the small ones."""
    _write(folder, LlamaConfig, llama3_tokenizer(), rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True)


def write_qwen25(folder: Path) -> None:
    """Qwen2.5: biases in its attention."""
    _write(folder, Qwen2Config, qwen_tokenizer(), tie_word_embeddings=True)


def write_qwen3(folder: Path) -> None:
    """Qwen3: norms of queries and keys, heads wider than their share."""
    _write(folder, Qwen3Config, qwen_tokenizer(), head_dim=16, tie_word_embeddings=True)


def write_mistral(folder: Path) -> None:
    """Mistral 7B 0.1: a sliding window."""
    _write(folder, MistralConfig, mistral_tokenizer(), sliding_window=WINDOW, tie_word_embeddings=False)


def write_gemma(folder: Path) -> None:
    """Gemma: scaled embeddings."""
    _write(folder, GemmaConfig, gemma_tokenizer())


def write_gemma2(folder: Path) -> None:
    """Gemma 2: capped scores, a sliding window in every other layer."""
    kinds = ["sliding_attention", "full_attention"]
    _write(folder, Gemma2Config, gemma_tokenizer(), sliding_window=WINDOW, layer_types=kinds)


def write_gemma3(folder: Path, **sizes: int) -> None:
    """Gemma 3, text alone: norms of queries and keys, two ropes."""
    kinds = ["sliding_attention", "full_attention"]
    _write(folder, Gemma3TextConfig, gemma_tokenizer(), sliding_window=WINDOW, layer_types=kinds, **sizes)


FAMILIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "llama3": (write_llama3, LLAMA3_CHAT),
    "llama3_1_and_3_2": (write_llama32, LLAMA3_CHAT),
    "qwen2_5": (write_qwen25, QWEN_CHAT),
    "qwen3": (write_qwen3, QWEN_CHAT),
    "mistral": (write_mistral, MISTRAL_CHAT),
    "gemma": (write_gemma, GEMMA_CHAT),
    "gemma2": (write_gemma2, GEMMA_CHAT),
    "gemma3": (write_gemma3, GEMMA_CHAT),
}
