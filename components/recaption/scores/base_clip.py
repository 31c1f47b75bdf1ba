"""Embed images and texts with the base CLIP, in batches; rows have length 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.errors import ConfigurationError, DataError
from components.ml.precision import autocast
from components.ml.prefetch import ahead
from components.ml.vision.clip import (
    are_cut,
    has_text_tower,
    image_embeddings,
    load_clip,
    load_clip_tokenizer,
    text_embeddings,
)
from components.ml.vision.pixels import decode_image
from components.ml.vision.towers import embedding_width, image_size_of
from components.settings.recaption import Scores
from components.storage.manifest import folder_key

FOLDER = "clip"
BATCHES_AHEAD = 2  # decoded while one is embedded


class BaseClip:
    """The CLIP of base_models, loaded on first use.

    Args:
        base_models: Folder of the artifact of base_models; verified.
        section: Params of the scores.
        device: Device to run on.
        threads: Number of images decoded at a time.
    """

    def __init__(self, base_models: Path, section: Scores, device: str, threads: int) -> None:
        self._folder, self._batch_size, self._threads = base_models / FOLDER, section.batch_size, threads
        self._device, self._precision = torch.device(device), section.precision
        key = folder_key(base_models, f"{FOLDER}/")
        self.identity = {"clip": key, "batch_size": section.batch_size, "precision": section.precision}

    def embed_images(self, jpegs: Sequence[bytes], progress: Callable[[int], None]) -> Tensor:
        """Return (N, D); call `progress` with the number of images of each finished batch.

        Raises:
            DataError: an image cannot be decoded, or the model cannot be loaded.
        """
        model, _ = self._loaded
        size = image_size_of(model)
        parts = [torch.empty(0, embedding_width(model))]
        count = BATCHES_AHEAD * self._batch_size
        images = ahead(partial(decode_image, size=size), jpegs, self._threads, count)
        for _ in range(0, len(jpegs), self._batch_size):
            try:
                batch = torch.stack(list(islice(images, self._batch_size)))
            except ValueError as error:
                raise DataError(
                    f"a shard of download holds {error}; run `llm2clip forget download shards`"
                ) from None
            with self._computing():
                parts.append(image_embeddings(model, batch.to(self._device)).float().cpu())
            progress(len(batch))
        return torch.cat(parts)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return (N, D); a text longer than the context is cut to its beginning.

        Raises:
            DataError: the model cannot be loaded, or its tokenizer belongs to another model.
        """
        model, tokenizer = self._loaded
        order = sorted(
            range(len(texts)), key=lambda row: (len(texts[row]), texts[row])
        )  # by length, for little padding
        parts = [torch.empty(0, embedding_width(model))]
        for batch in _batches([texts[row] for row in order], self._batch_size):
            try:
                with self._computing():
                    parts.append(text_embeddings(model, tokenizer, list(batch)).float().cpu())
            except ValueError as error:
                raise DataError(f"{self._folder}: {error}") from None
        embeddings = torch.cat(parts)
        return embeddings[torch.tensor(order, dtype=torch.long).argsort()]

    def are_cut(self, texts: Sequence[str]) -> list[bool]:
        """Return for each text whether it is longer than the context."""
        model, tokenizer = self._loaded
        return are_cut(model, tokenizer, list(texts))

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.inference_mode(), autocast(self._device, self._precision):
            yield

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        tokenizer = self._tokenizer
        with self._loading():
            return load_clip(self._folder).to(self._device), tokenizer

    @cached_property
    def _tokenizer(self) -> Any:  # noqa: ANN401 - of transformers
        with self._loading():
            if not has_text_tower(self._folder):
                raise ConfigurationError(
                    f"recaption.scores embeds captions and {self._folder} is a vision tower without a text "
                    "tower; expected a base_models.clip with both, or recaption.scores: null"
                )
            return load_clip_tokenizer(self._folder)

    @contextmanager
    def _loading(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise DataError(f"{error}; run `llm2clip forget base_models clip`") from None


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
