"""Train a small Llama and its tokenizer on captions."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from components.base_models.model_builder import ModelBuilder, write_about
from components.base_models.training_data import TrainingTexts, read_texts
from components.errors import ConfigurationError
from components.ml.schedule import batch_rows
from components.ml.text.bpe import train_bpe
from components.ml.text.cooccurrence import cooccurrence_embeddings
from components.ml.text.plain_text import framed_ids, text_ids
from components.settings.base_models import MadeLlm

HELD_OUT_BATCH = 16


def make_llm(section: MadeLlm, builder: ModelBuilder) -> Path:
    """Train the LLM, or reuse a cached one; return its folder with tokenizer and `about.json`."""
    texts = read_texts(section.texts, builder)
    identity = {"code": builder.code_of("llm"), "llm": section.model_dump(), "texts": texts.key}

    def make(folder: Path) -> None:
        torch.manual_seed(builder.seed)
        tokenizer = train_bpe(texts.train, section.vocabulary_size, section.max_tokens)
        model = _llama(section, tokenizer).to(builder.device)
        if section.cooccurrence:
            _start_from_cooccurrence(model, tokenizer, texts, section.cooccurrence.deviation)
        blocks = token_blocks(tokenizer, texts.train, section.max_tokens)

        def loss_at(step: int) -> Tensor:
            rows = batch_rows(len(blocks), section.training.batch_size, builder.seed, step)
            return _next_token_loss(model, blocks[rows].to(builder.device))

        loss = builder.train("llm", model, section.training, identity, loss_at)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        figures = (
            _perplexity(model, tokenizer, texts.held_out, section.max_tokens) if loss is not None else None
        )
        write_about(folder, model, section.training, loss, figures)

    return builder.get_or_build("llm", identity, make)


def token_blocks(tokenizer: Any, texts: list[str], length: int) -> Tensor:  # noqa: ANN401
    """Join all texts, with an end token after each, and cut the tokens into blocks: (N, length).

    An incomplete last block is dropped, unless it is the only one.
    """
    ids = [token for row in framed_ids(tokenizer, texts, None) for token in (*row, tokenizer.eos_token_id)]
    length = min(length, len(ids))
    count = len(ids) // length
    return torch.tensor(ids[: count * length]).view(count, length)


@torch.no_grad()
def _start_from_cooccurrence(model: Any, tokenizer: Any, texts: TrainingTexts, deviation: float) -> None:  # noqa: ANN401
    """Set the embeddings of tokens that occur in captions; all others stay random."""
    ids = iter(text_ids(tokenizer, texts.train, None))
    documents = ([token for row in islice(ids, size) for token in row] for size in texts.row_sizes)
    weight = model.get_input_embeddings().weight
    try:
        embeddings = cooccurrence_embeddings(documents, weight.shape[0], weight.shape[1], deviation)
    except ValueError as error:
        raise ConfigurationError(f"base_models.llm.cooccurrence: {error}") from None
    has_embedding = embeddings.any(dim=1)
    weight[has_embedding] = embeddings[has_embedding].to(weight.device)


def _llama(section: MadeLlm, tokenizer: Any) -> Any:  # noqa: ANN401 - classes of transformers
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=section.width,
            intermediate_size=section.feed_forward,
            num_hidden_layers=section.layers,
            num_attention_heads=section.heads,
            num_key_value_heads=section.heads,
            max_position_embeddings=section.max_tokens,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _next_token_loss(model: Any, ids: Tensor) -> Tensor:  # noqa: ANN401
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


@torch.inference_mode()
def _perplexity(model: Any, tokenizer: Any, texts: list[str], length: int) -> dict[str, float] | None:  # noqa: ANN401
    if not texts:
        return None
    batches = token_blocks(tokenizer, texts, length).to(model.device).split(HELD_OUT_BATCH)
    losses = [float(_next_token_loss(model, batch)) * len(batch) for batch in batches]
    return {"texts": len(texts), "perplexity": math.exp(sum(losses) / sum(map(len, batches)))}
