"""Caption retrieval accuracy (CRA): a caption finds another caption of its row among those of all rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from components.errors import ConfigurationError
from components.ml.metrics import alignment, distinct, true_ranks, uniformity
from components.ml.text.encoder import TextEncoder, encode
from components.ml.text.lexical import word_ranks
from components.settings.tune_llm import CaptionRetrieval
from components.tune_llm.caption_rows import CaptionRows

BATCH_TOKENS = 8192
Vectors = Callable[[list[str]], Tensor]


def llm_recalls(
    encoder: TextEncoder, tasks: list[CaptionRetrieval], rows: CaptionRows, precision: str
) -> dict[str, float]:
    """Return recall@1 of each task by an LLM, without query prompt (docs/method.md, 1)."""
    return {name: embedded.recall_at_1() for name, embedded in _by_llm(encoder, tasks, rows, precision)}


def llm_figures(
    encoder: TextEncoder, tasks: list[CaptionRetrieval], rows: CaptionRows
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the recalls, and alignment and uniformity of each task's captions (`ml.metrics`).

    They are in the precision in which the weights are held.
    """
    recalls, spread = {}, {}
    for name, embedded in _by_llm(encoder, tasks, rows, encoder.precision):
        second = embedded.candidates[embedded.groups]
        recalls[name] = embedded.recall_at_1()
        spread[name] = {
            "alignment": alignment(embedded.queries, second),
            "uniformity": uniformity(second),
        }
    return recalls, spread


def _by_llm(
    encoder: TextEncoder, tasks: list[CaptionRetrieval], rows: CaptionRows, precision: str
) -> Iterator[tuple[str, Embedded]]:
    encoder.model.eval()

    def vectors(texts: list[str]) -> Tensor:
        return encode(encoder, texts, BATCH_TOKENS, precision)

    for task in tasks:
        yield task.name, embed_pairs(*captions_of(task, rows), vectors)


def tfidf_recalls(tasks: list[CaptionRetrieval], rows: CaptionRows) -> dict[str, float]:
    """Return recall@1 of each task by TF-IDF, the control that counts words."""
    recalls = {}
    for task in tasks:
        first, second = captions_of(task, rows)
        recalls[task.name] = _recall_at_1(word_ranks(first, *distinct(second)))
    return recalls


def captions_of(task: CaptionRetrieval, rows: CaptionRows) -> tuple[list[str], list[str]]:
    """Return captions 0 of `first` and 0 of `second` (1 where both are one column) of the rows with both.

    Raises:
        ConfigurationError: fewer than two rows have both.
    """
    other = 1 if task.first == task.second else 0
    has_both = (rows.counts(task.first) > 0) & (rows.counts(task.second) > other)
    found = np.flatnonzero(has_both).tolist()
    if len(found) < 2:
        raise ConfigurationError(
            f"tune_llm.caption_retrieval {task.name}: {len(found)} validation rows have {task.first} and "
            f"{task.second}; expected 2 or more"
        )
    return (
        [rows.captions(row, task.first)[0] for row in found],
        [rows.captions(row, task.second)[other] for row in found],
    )


@dataclass(frozen=True)
class Embedded:
    """Pairs of captions as rows of length 1; equal candidates are one.

    Attributes:
        queries: (N, d).
        candidates: (M, d).
        groups: (N,) the candidate that belongs to each query.
    """

    queries: Tensor
    candidates: Tensor
    groups: Tensor

    def recall_at_1(self) -> float:
        """Return the share of queries that find their candidate before all others."""
        numbers = torch.arange(len(self.candidates))
        return _recall_at_1(true_ranks(self.queries, self.candidates, self.groups, numbers))


def embed_pairs(first: list[str], second: list[str], vectors: Vectors) -> Embedded:
    """Embed captions `first` and those of `second` that belong to them."""
    searched, groups = distinct(second)
    queries, candidates = (
        torch.nn.functional.normalize(vectors(texts), dim=1) for texts in (first, searched)
    )
    return Embedded(queries, candidates, groups)


def _recall_at_1(ranks: Tensor) -> float:
    return float((ranks == 0).double().mean())
