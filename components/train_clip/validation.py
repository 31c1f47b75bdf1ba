"""Retrieval on the validation split, measured while an arm trains."""

from __future__ import annotations

from hashlib import sha256
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from components.ml.metrics import true_ranks
from components.ml.precision import autocast
from components.running.held_out import HeldOut, HeldOutVectors, TaskCaptions
from components.settings.train_clip import TrainClip
from components.storage.atomic import content_key

if TYPE_CHECKING:
    from components.train_clip.arms import Arm

BATCH = 256
MEAN = "mean"  # of all tasks, both ways
DIRECTIONS = ("text_to_image", "image_to_text")


class Validation:
    """Measures an arm on the validation split.

    Args:
        held_out: Images of the split.
        tasks: Captions of the split, task by task.
        vectors: Cached embeddings of the captions, for an arm whose text is cached; None uses their texts.
        settings: Params of train_clip.
    """

    def __init__(
        self,
        held_out: HeldOut,
        tasks: list[TaskCaptions],
        vectors: HeldOutVectors | None,
        settings: TrainClip,
    ) -> None:
        self._held_out, self._tasks, self._settings = held_out, tasks, settings
        self._texts = [_texts_of(task, vectors) for task in tasks]

    def digest(self) -> str:
        """Return one hash of the images, the captions and their embeddings."""
        digest = sha256(content_key([self._held_out.keys, self._held_out.pixels.names]).encode())
        for task, texts in zip(self._tasks, self._texts, strict=True):
            digest.update(content_key([task.name, task.images.tolist(), task.owners.tolist()]).encode())
            digest.update(content_key(texts).encode() if isinstance(texts, list) else texts.numpy().tobytes())
        return digest.hexdigest()

    def measure(self, arm: Arm) -> dict[str, float]:
        """Return recall at k of each task and direction (0..1), `short/text_to_image`, and their mean."""
        arm.eval()
        device = arm.log_logit_scale.device
        figures: dict[str, float] = {}
        with torch.inference_mode(), autocast(device, self._settings.precision):
            image_embeddings = torch.cat(
                [
                    arm.embed_images(self._held_out.pixels.batch(rows).to(device)).float().cpu()
                    for rows in self._held_out.image_rows.split(BATCH)
                ]
            )
            for task, texts in zip(self._tasks, self._texts, strict=True):
                parts = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
                text_embeddings = torch.cat([arm.embed_texts(part).float().cpu() for part in parts])  # type: ignore[arg-type]
                figures |= _recalls(
                    task, image_embeddings[task.images], text_embeddings, self._settings.validation.recall_at
                )
        arm.train()
        return {**figures, MEAN: fmean(figures.values())}


def _texts_of(task: TaskCaptions, vectors: HeldOutVectors | None) -> Tensor | list[str]:
    if vectors is None:
        return [caption.text for caption in task.captions]
    return vectors.of_captions(task.captions)


def _recalls(task: TaskCaptions, images: Tensor, texts: Tensor, k: int) -> dict[str, float]:
    groups = torch.arange(len(images))
    ranks = (
        true_ranks(texts, images, task.owners, groups),
        true_ranks(images, texts, groups, task.owners),
    )
    return {
        f"{task.name}/{direction}": float((rank < k).double().mean())
        for direction, rank in zip(DIRECTIONS, ranks, strict=True)
    }
