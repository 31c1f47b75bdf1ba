"""LLM as a text encoder: hidden states pooled into one vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.ml.precision import DTYPES, autocast
from components.ml.text.attention import check_attention, hidden_states, set_attention
from components.ml.text.decoder import load_decoder
from components.ml.text.padded_attention import padded_keys
from components.ml.text.template import Tokens, wrap

LEAST_SHARE = 0.75  # least length of a batch's shortest row, as a share of its longest


@dataclass
class TextEncoder:
    """A language model and its way of encoding.

    Attributes:
        model: Returns `last_hidden_state`; its `config.is_causal` agrees with `attention`.
        tokenizer: Tokenizer of the model.
        attention: `bidirectional` or `causal`.
        pooling: `mean` of the hidden states of the text and the template's footer, or `last`.
        template: Chat template around `{text}`. Special tokens in it count; those in a text are plain text.
        max_tokens: Longer texts are cut to fit, template and prompt included.
        query_prompts: Prompts put before a query, by name, as it was tuned.
    """

    model: nn.Module
    tokenizer: Any
    attention: str
    pooling: str
    template: str
    max_tokens: int
    query_prompts: dict[str, str] = field(default_factory=dict)

    @property
    def dimension(self) -> int:
        """Width of an embedding."""
        return int(self.model.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    @property
    def precision(self) -> str:
        """Precision of its weights: `fp32` or `bf16`."""
        return {dtype: name for name, dtype in DTYPES.items()}[next(self.model.parameters()).dtype]


def load_text_encoder(
    folder: Path,
    *,
    attention: str,
    pooling: str,
    template: str,
    max_tokens: int,
    query_prompts: dict[str, str] | None = None,
    device: str = "cpu",
    precision: str = "fp32",
) -> TextEncoder:
    """Load a decoder in Hugging Face layout from a folder (safetensors, no remote code), in evaluation mode.

    Weights are in `precision`, `fp32` or `bf16`. With bf16 the activations between blocks are bf16 too: half
    the memory on a GPU, and at least a fifth less time than with autocast alone (`bench.large_llm`).

    Raises:
        ValueError: the folder holds no such model, its attention is not `attention`, or `max_tokens` does not
            fit model or template.
    """
    tokenizer, model = load_decoder(folder, DTYPES[precision])
    set_attention(model, attention)
    encoder = TextEncoder(
        model.eval().to(device), tokenizer, attention, pooling, template, max_tokens, query_prompts or {}
    )
    longest = getattr(model.config, "max_position_embeddings", max_tokens)
    if max_tokens > longest:
        raise ValueError(f"max_tokens is {max_tokens}; expected at most {longest}, the context of {folder}")
    for prompt in ("", *encoder.query_prompts.values()):
        tokenise(encoder, ["a"], prompt)
    check_attention(encoder.model, attention)
    return encoder


def tokenise(encoder: TextEncoder, texts: list[str], prompt: str = "") -> list[Tokens]:
    """Tokenise texts within the encoder's template, each after a query prompt (see `wrap`)."""
    return wrap(encoder.tokenizer, texts, encoder.template, prompt, encoder.max_tokens)


def pad(rows: Sequence[Tokens]) -> tuple[Tensor, Tensor, Tensor]:
    """Return token ids padded on the left, masks of real tokens and of text tokens: (B, T) each."""
    longest = max(len(row.ids) for row in rows)
    ids = on_the_left([row.ids for row in rows], 0)
    first = torch.tensor([[longest - len(row.ids)] for row in rows])  # (B, 1)
    text_start = first + torch.tensor([[row.text_start] for row in rows])
    positions = torch.arange(longest)
    return ids, positions >= first, positions >= text_start


def on_the_left(rows: Sequence[tuple[int, ...]], filler: int) -> Tensor:
    """Return rows of numbers or flags padded on the left: (B, T)."""
    longest = max(len(row) for row in rows)
    return torch.tensor([(*(filler,) * (longest - len(row)), *row) for row in rows])


def draw_tokens(rows: list[Tokens], share: float) -> list[list[bool]]:
    """Draw each token of texts with probability `share`, by torch's global generator; return flags."""
    lengths = [row.text_end - row.text_start for row in rows]
    drawn = torch.rand(sum(lengths)) < share
    return [flags.tolist() for flags in drawn.split(lengths)]


def embed(encoder: TextEncoder, rows: list[Tokens]) -> Tensor:
    """Encode one batch, with gradients if they are enabled; (B, d) float32, un-normalised."""
    ids, real, pooled = pad(rows)
    hidden = hidden_states(encoder.model, ids.to(encoder.device), real.to(encoder.device))
    return pool(hidden.float(), pooled.to(encoder.device), encoder.pooling)


def pool(hidden: Tensor, pooled: Tensor, pooling: str) -> Tensor:
    """Pool hidden states (B, T, d) to (B, d): mean or last of the tokens that `pooled` (B, T) marks."""
    if pooling == "last":
        last = hidden.shape[1] - 1 - pooled.int().flip(1).argmax(1)  # (B,)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    weights = pooled.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
    return (hidden * weights).sum(1) / weights.sum(1)


def encode(
    encoder: TextEncoder,
    texts: list[str],
    batch_tokens: int,
    precision: str = "fp32",
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Encode texts, without a query prompt; see `encode_tokens`."""
    return encode_tokens(encoder, tokenise(encoder, texts), batch_tokens, precision, progress)


def encode_tokens(
    encoder: TextEncoder,
    rows: list[Tokens],
    batch_tokens: int,
    precision: str = "fp32",
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Encode tokenised texts in batches of about equal length.

    Args:
        encoder: In evaluation mode.
        rows: Tokenised texts, from `tokenise`.
        batch_tokens: Most tokens of a batch, padding included; a longer text is a batch of its own.
        precision: `fp32`, or `bf16` by autocast.
        progress: Called with the number of texts of each finished batch.

    Returns:
        (N, d) float32 on the CPU, un-normalised, in the order of `rows`.
    """
    embeddings = torch.empty(len(rows), encoder.dimension)
    with torch.no_grad(), autocast(encoder.device, precision), padded_keys(encoder.model):
        for batch in token_batches([len(row.ids) for row in rows], batch_tokens):
            embeddings[batch] = embed(encoder, [rows[index] for index in batch]).cpu()
            if progress:
                progress(len(batch))
    return embeddings


def token_batches(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield the row indices of batches, longest rows first, so that a lack of memory shows early.

    For 100,000 captions in batches of 2,048 tokens, 0.1 % is padding; packing several texts into a row would
    save no more than that.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        longest = lengths[batch[0]] if batch else 0
        is_full = longest * (len(batch) + 1) > batch_tokens
        if batch and (is_full or lengths[index] < LEAST_SHARE * longest):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
