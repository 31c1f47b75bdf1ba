"""Run a sentence-transformers model (an optional extra) in batches with a token budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.ml.precision import DTYPES, autocast
from components.ml.text.encoder import token_batches
from components.ml.text.plain_text import spelled_out


class SentenceEncoder:
    """A model in sentence-transformers layout; prompts and normalisation of vectors are as its files say.

    Args:
        folder: Folder with `modules.json`; no remote code runs.
        device: Device of the model.
        precision: `fp32` or `bf16`, of weights and products.

    Raises:
        ImportError: sentence-transformers is not installed.
        ValueError: the folder holds no such model.
    """

    def __init__(self, folder: Path, device: str, precision: str) -> None:
        from sentence_transformers import SentenceTransformer

        try:
            self._model: Any = SentenceTransformer(
                str(folder),
                device=device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": DTYPES[precision]},  # else the dtype of the file: `fp32` could be half
            ).eval()
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{folder} holds no sentence encoder that loads: {first}") from None
        self._device, self._precision = torch.device(device), precision

    @property
    def dimension(self) -> int:
        """Width of an embedding."""
        return int(self._model.get_embedding_dimension())

    def lengths(self, texts: list[str]) -> tuple[list[int], list[bool]]:
        """Return the number of tokens of each text, cut to the model's context, and flags of cut texts."""
        texts = spelled_out(self._model.tokenizer, texts)
        limit = self._model.max_seq_length or self._model.tokenizer.model_max_length
        full_lengths = [
            len(ids) for ids in self._model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        ]
        return [min(length, limit) for length in full_lengths], [length > limit for length in full_lengths]

    def encode(self, texts: list[str], batch_tokens: int, progress: Callable[[int], None]) -> Tensor:
        """Embed texts in batches of about equal length: (N, d) float32 on the CPU, in their order.

        Special tokens in a text are plain text; those in the model's own prompts count.

        Args:
            texts: Texts to embed.
            batch_tokens: Most tokens of a batch, padding included; a longer text is a batch of its own.
            progress: Called with the number of texts of each finished batch.
        """
        vectors = torch.empty(len(texts), self.dimension)
        texts = spelled_out(self._model.tokenizer, texts)
        lengths, _ = self.lengths(texts) if texts else ([], [])
        with autocast(self._device, self._precision):
            for batch in token_batches(lengths, batch_tokens):
                batch_vectors = self._model.encode(
                    [texts[row] for row in batch],
                    batch_size=len(batch),
                    convert_to_tensor=True,
                    show_progress_bar=False,
                )
                vectors[batch] = batch_vectors.float().cpu()
                progress(len(batch))
        return vectors
