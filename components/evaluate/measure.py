"""Metrics with intervals and chance: retrieval both ways, zero-shot, text to text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from components.evaluate.models import Model, class_embeddings
from components.ml.metrics import (
    Interval,
    chance_of_hit,
    distinct,
    ranks_from_scores,
    recall_difference,
    recalls,
    top,
    true_ranks,
)
from components.ml.text.lexical import word_ranks
from components.running.held_out import HeldOut, HeldOutVectors, TaskCaptions, label_truth
from components.settings.evaluate import Evaluate, ZeroShotTask
from components.storage.side_tables import Caption

SHOWN = 5  # images of a gallery row
DIGITS = 6

Figure = dict[str, Any]  # value, low, high, chance: 0..1; beats_chance


@dataclass
class ArmResult:
    """Measurements of one arm.

    Attributes:
        about: Description of the arm, as in `model.json`.
        retrieval: Task, direction, `recall_at_<k>` to figure.
        zero_shot: Task to figure.
        truncated: Task to the share of captions cut, for arms with a text tower of their own.
        ranks: Task to the rank (m,) of each caption's image.
        image_ranks: Task to the rank (n,) of the best-ranked caption of each image.
        tops: Task to the top images (m, 5) of each caption, as numbers of the task's images.
    """

    about: dict[str, Any]
    retrieval: dict[str, dict[str, dict[str, Figure]]] = field(default_factory=dict)
    zero_shot: dict[str, Figure] = field(default_factory=dict)
    truncated: dict[str, float] = field(default_factory=dict)
    ranks: dict[str, Tensor] = field(default_factory=dict)
    image_ranks: dict[str, Tensor] = field(default_factory=dict)
    tops: dict[str, Tensor] = field(default_factory=dict)


def measure_arm(
    about: dict[str, Any],
    model: Model,
    held_out: HeldOut,
    tasks: list[TaskCaptions],
    settings: Evaluate,
    seed: int,
) -> ArmResult:
    """Measure one arm on all tasks."""
    result = ArmResult(about)
    images = model.images(held_out)
    for task in tasks:
        texts = model.captions(task.captions)
        task_images = images[task.images]
        groups = torch.arange(len(task_images))
        to_image = true_ranks(texts, task_images, task.owners, groups)
        to_text = true_ranks(task_images, texts, groups, task.owners)
        captions_each = torch.bincount(task.owners)
        ones = torch.ones(len(texts), dtype=torch.long)
        result.retrieval[task.name] = {
            "text_to_image": _recall(to_image, task.owners, len(task_images), ones, settings, seed),
            "image_to_text": _recall(to_text, groups, len(texts), captions_each, settings, seed),
        }
        result.ranks[task.name], result.tops[task.name] = to_image, top(texts, task_images, SHOWN)
        result.image_ranks[task.name] = to_text
        if (share := model.truncated_share(task.captions)) is not None:
            result.truncated[task.name] = round(share, DIGITS)
    for zero_shot in settings.zero_shot:
        result.zero_shot[zero_shot.name] = _zero_shot(model, images, held_out, zero_shot, settings, seed)
    return result


def measure_difference(
    subject: ArmResult, control: ArmResult, task: TaskCaptions, settings: Evaluate, seed: int
) -> dict[str, dict[str, float]]:
    """Return the difference of two arms' recall at 1, both ways, by the paired bootstrap over images."""
    images = torch.arange(len(task.images))
    ranks_by_direction = {
        "text_to_image": (subject.ranks[task.name], control.ranks[task.name], task.owners),
        "image_to_text": (subject.image_ranks[task.name], control.image_ranks[task.name], images),
    }
    differences = {}
    for direction, ranks in ranks_by_direction.items():
        interval = recall_difference(*ranks, 1, settings.bootstrap_samples, settings.confidence, seed)
        differences[direction] = {name: round(value, DIGITS) for name, value in asdict(interval).items()}
    return differences


def measure_captions(
    firsts: list[Caption],
    seconds: list[Caption],
    caches: dict[str, HeldOutVectors],
    settings: Evaluate,
    seed: int,
) -> dict[str, Figure]:
    """Return recall@1 from first to second captions by TF-IDF and by each LLM (docs/method.md, 1).

    Args:
        firsts: (n,) the queries.
        seconds: (n,) the candidates, equal texts as one; each belongs to the image of the query at its index.
        caches: Embeddings, by name of the LLM.
        settings: Confidence and number of bootstrap samples.
        seed: Of the bootstrap.
    """
    unique_texts, groups = distinct([caption.text for caption in seconds])
    caption_by_text = {caption.text: caption for caption in seconds}
    candidates = [caption_by_text[text] for text in unique_texts]
    ranks = {"tfidf": word_ranks([caption.text for caption in firsts], unique_texts, groups)}
    candidate_indices = torch.arange(len(unique_texts))
    for name, cache in caches.items():
        query_rows, candidate_rows = (
            torch.nn.functional.normalize(cache.of_captions(captions), dim=1)
            for captions in (firsts, candidates)
        )
        ranks[name] = true_ranks(query_rows, candidate_rows, groups, candidate_indices)
    rows, ones = torch.arange(len(firsts)), torch.ones(len(firsts), dtype=torch.long)
    return {
        name: _recall(model_ranks, rows, len(unique_texts), ones, settings, seed, recall_at=[1])[
            "recall_at_1"
        ]
        for name, model_ranks in ranks.items()
    }


def _recall(
    ranks: Tensor,
    clusters: Tensor,
    candidates: int,
    true_candidates: Tensor,
    settings: Evaluate,
    seed: int,
    recall_at: Sequence[int] = (),
) -> dict[str, Figure]:
    ks = list(recall_at or settings.recall_at)
    intervals = recalls(ranks, clusters, ks, settings.bootstrap_samples, settings.confidence, seed)
    return {
        f"recall_at_{k}": _figure(interval, chance_of_hit(candidates, true_candidates, k))
        for k, interval in intervals.items()
    }


def _zero_shot(
    model: Model, images: Tensor, held_out: HeldOut, task: ZeroShotTask, settings: Evaluate, seed: int
) -> Figure:
    """Return how often the nearest class is one of the image's labels (docs/method.md, 4)."""
    classes, labelled, truth = label_truth(held_out, task.label)
    rows = class_embeddings(model.prompts(task, classes), len(task.templates))
    ranks = ranks_from_scores(images[labelled] @ rows.T, truth)
    clusters = torch.arange(len(labelled))
    return _recall(ranks, clusters, len(classes), truth.sum(dim=1), settings, seed, [1])["recall_at_1"]


def _figure(interval: Interval, chance: float) -> Figure:
    return {
        "value": round(interval.value, DIGITS),
        "low": round(interval.low, DIGITS),
        "high": round(interval.high, DIGITS),
        "chance": round(chance, DIGITS),
        "beats_chance": interval.low > chance,
    }
