"""Load arms for evaluation: images and captions in, rows of length 1 out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.ml.adapter import load_adapter
from components.ml.vision.clip import (
    are_cut,
    image_embeddings,
    load_clip,
    load_clip_tokenizer,
    text_embeddings,
)
from components.ml.vision.towers import encode_images, load_vision_encoder
from components.running.held_out import HeldOut, HeldOutVectors
from components.settings.evaluate import ZeroShotTask
from components.storage.side_tables import Caption

BATCH = 256


class LlmModel:
    """A vision tower with a text adapter over cached LLM embeddings."""

    def __init__(self, folder: Path, texts: HeldOutVectors, device: str) -> None:
        self._encoder: nn.Module = load_vision_encoder(folder / "vision_encoder").to(device)
        self._adapter = load_adapter(folder / "text_adapter").to(device)
        self._texts, self._device = texts, device

    def images(self, held_out: HeldOut) -> Tensor:
        """Return (N, D), rows of length 1, in the order of the keys."""
        return _in_batches(
            lambda rows: encode_images(self._encoder, held_out.pixels.batch(rows).to(self._device)),
            held_out.image_rows,
        )

    def captions(self, captions: list[Caption]) -> Tensor:
        """Return (m, D), rows of length 1."""
        return self._adapt(self._texts.of_captions(captions))

    def prompts(self, task: ZeroShotTask, classes: list[str]) -> Tensor:
        """Return (classes * templates, D), rows of length 1."""
        return self._adapt(self._texts.of_prompts(task, classes))

    def truncated_share(self, _captions: list[Caption]) -> float | None:
        """Return None: the LLM's limit is a param of tune_llm."""
        return None

    def _adapt(self, vectors: Tensor) -> Tensor:
        return _in_batches(lambda part: self._adapter(part.to(self._device)), vectors)


class OwnTextModel:
    """A CLIP with its own text tower."""

    def __init__(self, folder: Path, device: str) -> None:
        self._model: Any = load_clip(folder).to(device)
        self._tokenizer = load_clip_tokenizer(folder)
        self._device = device

    def images(self, held_out: HeldOut) -> Tensor:
        """Return (N, D), rows of length 1, in the order of the keys."""
        return _in_batches(
            lambda rows: image_embeddings(self._model, held_out.pixels.batch(rows).to(self._device)),
            held_out.image_rows,
        )

    def captions(self, captions: list[Caption]) -> Tensor:
        """Return (m, D), rows of length 1."""
        return self._embed([caption.text for caption in captions])

    def prompts(self, task: ZeroShotTask, classes: list[str]) -> Tensor:
        """Return (classes * templates, D), rows of length 1."""
        return self._embed(
            [template.replace("{label}", label) for label in classes for template in task.templates]
        )

    def truncated_share(self, captions: list[Caption]) -> float:
        """Return the share of captions that are longer than the context, and so were cut."""
        cut = are_cut(self._model, self._tokenizer, [caption.text for caption in captions])
        return sum(cut) / len(cut)

    def _embed(self, texts: list[str]) -> Tensor:
        return _in_batches(
            lambda rows: text_embeddings(self._model, self._tokenizer, [texts[row] for row in rows.tolist()]),
            torch.arange(len(texts)),
        )


Model = LlmModel | OwnTextModel


def class_embeddings(prompts: Tensor, templates: int) -> Tensor:
    """Return (classes, D), rows of length 1: each class the mean of its prompts (classes * templates, D)."""
    return F.normalize(prompts.view(-1, templates, prompts.shape[1]).mean(dim=1), dim=1)


def _in_batches(embed: Any, items: Tensor) -> Tensor:  # noqa: ANN401 - from a slice of items to (B, D)
    with torch.inference_mode():
        return torch.cat([embed(part).float().cpu() for part in items.split(BATCH)])
