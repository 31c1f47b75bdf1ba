"""Caption retrieval accuracy (CRA): a caption finds another caption of its row among those of all rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from components.faults import ConfigurationFault
from components.ml.llm import TextEncoder, encode
from components.ml.retrieval import true_ranks
from components.ml.spread import alignment, uniformity
from components.ml.tfidf import TfIdf
from components.settings.tune_llm import CaptionRetrieval
from components.tune_llm.caption_rows import CaptionRow

BATCH_TOKENS = 8192
Vectors = Callable[[list[str]], Tensor]


def llm_recalls(
    encoder: TextEncoder, tasks: list[CaptionRetrieval], rows: list[CaptionRow]
) -> dict[str, float]:
    """Return recall@1 of each task by an LLM, without query prompt (METHOD of the paper's table)."""
    encoder.model.eval()
    return {
        task.name: recall_at_1(*captions_of(task, rows), lambda texts: encode(encoder, texts, BATCH_TOKENS))
        for task in tasks
    }


def llm_spread(
    encoder: TextEncoder, tasks: list[CaptionRetrieval], rows: list[CaptionRow]
) -> dict[str, dict[str, float]]:
    """Return alignment and uniformity of each task's captions by an LLM (`ml.spread`)."""
    encoder.model.eval()
    found = {}
    for task in tasks:
        first, second = (encode(encoder, texts, BATCH_TOKENS) for texts in captions_of(task, rows))
        first, second = (torch.nn.functional.normalize(part, dim=1) for part in (first, second))
        found[task.name] = {"alignment": alignment(first, second), "uniformity": uniformity(second)}
    return found


def tfidf_recalls(tasks: list[CaptionRetrieval], rows: list[CaptionRow]) -> dict[str, float]:
    """Return recall@1 of each task by TF-IDF, the control that counts words."""
    recalls = {}
    for task in tasks:
        first, second = captions_of(task, rows)
        recalls[task.name] = recall_at_1(first, second, TfIdf(second).vectors)
    return recalls


def captions_of(task: CaptionRetrieval, rows: list[CaptionRow]) -> tuple[list[str], list[str]]:
    """Return captions 0 of `first` and 0 of `second` (1 where both are one column) of the rows with both.

    Raises:
        ConfigurationFault: fewer than two rows have both.
    """
    other = 1 if task.first == task.second else 0
    found = [
        (row.captions[task.first][0], row.captions[task.second][other])
        for row in rows
        if row.captions.get(task.first) and len(row.captions.get(task.second, [])) > other
    ]
    if len(found) < 2:
        raise ConfigurationFault(
            f"tune_llm.caption_retrieval {task.name}: {len(found)} validation rows have {task.first} and "
            f"{task.second}; expected 2 or more"
        )
    return [first for first, _ in found], [second for _, second in found]


def recall_at_1(first: list[str], second: list[str], vectors: Vectors) -> float:
    """Return the share of `first` that find their `second` before all other texts; equal texts are one."""
    numbers: dict[str, int] = {}
    groups = torch.tensor([numbers.setdefault(text, len(numbers)) for text in second])
    queries = torch.nn.functional.normalize(vectors(first), dim=1)
    candidates = torch.nn.functional.normalize(vectors(list(numbers)), dim=1)
    ranks = true_ranks(queries, candidates, groups, torch.arange(len(numbers)))
    return float((ranks == 0).double().mean())
