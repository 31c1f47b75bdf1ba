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
    """What one arm reached.

    Attributes:
        about: What it is.
        retrieval: Task, direction, `recall_at_<k>` to figure.
        zero_shot: Task to figure.
        truncated: Task to the share of captions cut, for arms with a text tower of their own.
        ranks: Task to the rank (m,) of each caption's image.
        image_ranks: Task to the rank (n,) of the first of each image's captions.
        tops: Task to the first images (m, 5) that each caption finds, as numbers of the task's images.
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
        of_task = images[task.images]
        groups = torch.arange(len(of_task))
        to_image = true_ranks(texts, of_task, task.owners, groups)
        to_text = true_ranks(of_task, texts, groups, task.owners)
        captions_each = torch.bincount(task.owners)
        ones = torch.ones(len(texts), dtype=torch.long)
        result.retrieval[task.name] = {
            "text_to_image": _recall(to_image, task.owners, len(of_task), ones, settings, seed),
            "image_to_text": _recall(to_text, groups, len(texts), captions_each, settings, seed),
        }
        result.ranks[task.name], result.tops[task.name] = to_image, top(texts, of_task, SHOWN)
        result.image_ranks[task.name] = to_text
        if (share := model.truncated_share(task.captions)) is not None:
            result.truncated[task.name] = round(share, DIGITS)
    for zero_shot in settings.zero_shot:
        result.zero_shot[zero_shot.name] = _zero_shot(model, images, held_out, zero_shot, settings, seed)
    return result


def measure_difference(
    subject: ArmResult, control: ArmResult, task: TaskCaptions, settings: Evaluate, seed: int
) -> dict[str, dict[str, float]]:
    """Return recall at 1 of one arm less that of another, each way, by the paired bootstrap over images."""
    images = torch.arange(len(task.images))
    ways = {
        "text_to_image": (subject.ranks[task.name], control.ranks[task.name], task.owners),
        "image_to_text": (subject.image_ranks[task.name], control.image_ranks[task.name], images),
    }
    found = {}
    for way, ranks in ways.items():
        interval = recall_difference(*ranks, 1, settings.bootstrap_samples, settings.confidence, seed)
        found[way] = {name: round(value, DIGITS) for name, value in asdict(interval).items()}
    return found


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
        seconds: (n,) what is searched, equal texts as one; the one at the same place is of the same image.
        caches: By name of the LLM.
        settings: Confidence and number of bootstrap samples.
        seed: Of the bootstrap.
    """
    searched, groups = distinct([caption.text for caption in seconds])
    of_text = {caption.text: caption for caption in seconds}
    candidates = [of_text[text] for text in searched]
    ranks = {"tfidf": word_ranks([caption.text for caption in firsts], searched, groups)}
    numbers = torch.arange(len(searched))
    for name, cache in caches.items():
        query_rows, candidate_rows = (
            torch.nn.functional.normalize(cache.of_captions(captions), dim=1)
            for captions in (firsts, candidates)
        )
        ranks[name] = true_ranks(query_rows, candidate_rows, groups, numbers)
    rows, ones = torch.arange(len(firsts)), torch.ones(len(firsts), dtype=torch.long)
    return {
        name: _recall(of_name, rows, len(searched), ones, settings, seed, recall_at=[1])["recall_at_1"]
        for name, of_name in ranks.items()
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
    wanted = list(recall_at or settings.recall_at)
    found = recalls(ranks, clusters, wanted, settings.bootstrap_samples, settings.confidence, seed)
    return {
        f"recall_at_{k}": _figure(interval, chance_of_hit(candidates, true_candidates, k))
        for k, interval in found.items()
    }


def _zero_shot(
    model: Model, images: Tensor, held_out: HeldOut, task: ZeroShotTask, settings: Evaluate, seed: int
) -> Figure:
    """Return how often the best class is one of the image's labels (docs/method.md, 4)."""
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
