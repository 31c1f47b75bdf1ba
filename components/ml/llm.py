"""A language model as a text encoder: its hidden states over a text, pooled into one vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from components.ml.attention import check_attention, hidden_states, set_attention
from components.ml.padded_keys import padded_keys
from components.ml.template import Tokens, wrap

LEAST_SHARE = 0.75  # of a batch's longest row, that its shortest one has


@dataclass
class TextEncoder:
    """A language model and how it encodes.

    Attributes:
        model: Gives `last_hidden_state`; its `config.is_causal` says what `attention` says.
        tokenizer: The model's own.
        attention: `bidirectional` or `causal`.
        pooling: `mean` of the hidden states of the text and what follows it in the template, or the `last`.
        template: Chat wrap around `{text}`; special tokens in it count, those in a text are plain text.
        max_tokens: Longer texts are cut to fit, template and prompt included.
        query_prompt: Put before a text that is tokenised as a query.
    """

    model: nn.Module
    tokenizer: Any
    attention: str
    pooling: str
    template: str
    max_tokens: int
    query_prompt: str = ""

    @property
    def dimension(self) -> int:
        """Width of an embedding."""
        return int(self.model.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device


def load_text_encoder(
    folder: Path,
    *,
    attention: str,
    pooling: str,
    template: str,
    max_tokens: int,
    query_prompt: str = "",
    device: str = "cpu",
) -> TextEncoder:
    """Load a decoder in Hugging Face layout from a folder (safetensors, no remote code), in evaluation mode.

    Raises:
        ValueError: the folder holds no such model, its attention does not do what `attention` says, or
            `max_tokens` does not fit model or template.
    """
    tokenizer, model = _load(folder)
    set_attention(model, attention)
    encoder = TextEncoder(
        model.eval().to(device), tokenizer, attention, pooling, template, max_tokens, query_prompt
    )
    longest = getattr(model.config, "max_position_embeddings", max_tokens)
    if max_tokens > longest:
        raise ValueError(f"max_tokens is {max_tokens}; {folder} reads {longest} tokens at most")
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise ValueError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model embeds "
            f"{model.get_input_embeddings().num_embeddings}: expected the tokenizer that belongs to the model"
        )
    tokenise(encoder, ["a"], as_queries=True)
    check_attention(encoder.model, attention)
    return encoder


def _load(folder: Path) -> tuple[Any, Any]:
    if not folder.is_dir():
        raise ValueError(f"{folder} not found; expected a language model in Hugging Face layout")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, report = AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, KeyError, ImportError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{folder} holds no language model and tokenizer that load: {_first_line(error)}"
        ) from None
    # transformers would leave these random, with a warning only
    absent = sorted({*report["missing_keys"], *(str(odd) for odd in report["mismatched_keys"])})
    if absent:
        raise ValueError(
            f"{folder}: {len(absent)} weights are missing or of another shape ({', '.join(absent[:5])}); "
            "expected all of the model that its config.json names"
        )
    return tokenizer, model


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def tokenise(encoder: TextEncoder, texts: list[str], *, as_queries: bool = False) -> list[Tokens]:
    """Tokenise texts within the encoder's template, `as_queries` with its query prompt (see `wrap`)."""
    prompt = encoder.query_prompt if as_queries else ""
    return wrap(encoder.tokenizer, texts, encoder.template, prompt, encoder.max_tokens)


def embed(encoder: TextEncoder, rows: list[Tokens]) -> Tensor:
    """Encode one batch as it is, with gradients where they are on; (B, d) float32, un-normalised."""
    lengths = torch.tensor([len(row.ids) for row in rows])
    longest = int(lengths.max())
    first = (longest - lengths).unsqueeze(1)  # (B, 1): padded on the left
    text_start = first + torch.tensor([[row.text_start] for row in rows])
    place = torch.arange(longest)
    ids = torch.tensor([(*(0,) * (longest - len(row.ids)), *row.ids) for row in rows])
    hidden = hidden_states(encoder.model, ids.to(encoder.device), (place >= first).to(encoder.device))
    return pool(hidden.float(), (place >= text_start).to(encoder.device), encoder.pooling)


def pool(hidden: Tensor, pooled: Tensor, pooling: str) -> Tensor:
    """Reduce hidden states (B, T, d) to (B, d): over the tokens that `pooled` (B, T) marks, mean or last."""
    if pooling == "last":
        last = hidden.shape[1] - 1 - pooled.int().flip(1).argmax(1)  # (B,)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    weights = pooled.unsqueeze(1).to(hidden.dtype)  # (B, 1, T)
    return (weights @ hidden).squeeze(1) / weights.sum(2)


def encode(
    encoder: TextEncoder,
    texts: list[str],
    batch_tokens: int,
    precision: str = "fp32",
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Encode texts, without the query prompt; see `encode_tokens`."""
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
        encoder: How; in evaluation mode.
        rows: Of `tokenise`.
        batch_tokens: At most so many tokens a batch, padding included; a longer text is a batch of its own.
        precision: `fp32`, or `bf16` by autocast.
        progress: Called with the number of texts of each finished batch.

    Returns:
        (N, d) float32 on the CPU, un-normalised, in the order of `rows`.
    """
    embeddings = torch.empty(len(rows), encoder.dimension)
    with torch.inference_mode(), autocast(encoder.device, precision), padded_keys(encoder.model):
        for batch in token_batches([len(row.ids) for row in rows], batch_tokens):
            embeddings[batch] = embed(encoder, [rows[number] for number in batch]).cpu()
            if progress:
                progress(len(batch))
    return embeddings


def token_batches(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield the row numbers of batches, longest rows first so that memory fails early if it does.

    Of 100,000 captions in batches of 2,048 tokens, 0.1 % is padding: packing texts into one row would save
    no more than that.
    """
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        longest = lengths[batch[0]] if batch else 0
        is_full = longest * (len(batch) + 1) > batch_tokens
        if batch and (is_full or lengths[number] < LEAST_SHARE * longest):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Run what follows in `precision`: `fp32`, or `bf16` where torch deems it safe."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
