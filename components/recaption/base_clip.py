"""The base CLIP as a judge: images and texts in, rows of length 1 out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.faults import DataFault
from components.ml.clip import image_embeddings, load_clip, load_clip_tokenizer, text_embeddings
from components.ml.images import decode_images
from components.storage.manifest import folder_key

FOLDER = "clip"


class BaseClip:
    """The CLIP of base_models, loaded when it is first asked.

    Args:
        base_models: The artifact; verified.
        batch_size: Images or texts embedded at once.
        device: Where to run it.
    """

    def __init__(self, base_models: Path, batch_size: int, device: str) -> None:
        self._folder, self._batch_size, self._device = base_models / FOLDER, batch_size, device
        self.identity = {"clip": folder_key(base_models, f"{FOLDER}/"), "batch_size": batch_size}

    def embed_images(self, jpegs: Sequence[bytes], progress: Callable[[int], None]) -> Tensor:
        """Return (N, D); `progress` is told the number of images of each finished batch.

        Raises:
            DataFault: an image cannot be decoded, or the model cannot be loaded.
        """
        model, _ = self._loaded
        size = model.config.vision_config.image_size
        parts = [torch.empty(0, model.config.projection_dim)]
        for batch in _batches(jpegs, self._batch_size):
            try:
                images = decode_images(batch, size)
            except ValueError as error:
                raise DataFault(
                    f"a shard of download holds {error}; run `dvc repro --force download`"
                ) from None
            with torch.inference_mode():
                parts.append(image_embeddings(model, images.to(self._device)).float().cpu())
            progress(len(batch))
        return torch.cat(parts)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return (N, D); a text that is longer than the context counts with its beginning.

        Raises:
            DataFault: the model cannot be loaded, or its tokenizer is that of another.
        """
        model, tokenizer = self._loaded
        order = sorted(range(len(texts)), key=lambda row: (len(texts[row]), texts[row]))  # little padding
        parts = [torch.empty(0, model.config.projection_dim)]
        for batch in _batches([texts[row] for row in order], self._batch_size):
            try:
                with torch.inference_mode():
                    parts.append(text_embeddings(model, tokenizer, list(batch)).float().cpu())
            except ValueError as error:
                raise DataFault(f"{self._folder}: {error}") from None
        embeddings = torch.cat(parts)
        return embeddings[torch.tensor(order, dtype=torch.long).argsort()]

    def are_cut(self, texts: Sequence[str]) -> list[bool]:
        """Return which texts are longer than the context."""
        model, tokenizer = self._loaded
        limit = model.config.text_config.max_position_embeddings
        ids = tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
        return [len(row) > limit for row in ids]

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        try:
            return load_clip(self._folder).to(self._device), load_clip_tokenizer(self._folder)
        except ValueError as error:
            raise DataFault(f"{error}; run `dvc repro --force base_models`") from None


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
