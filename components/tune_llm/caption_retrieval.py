"""Caption retrieval accuracy (CRA): recall@1 from a caption to another caption of its row, among all rows."""

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
    """Return an LLM's recall@1 for each task, without a query prompt (docs/method.md, 1)."""
    return {name: embedded.recall_at_1() for name, embedded in _by_llm(encoder, tasks, rows, precision)}


def llm_figures(
    encoder: TextEncoder, tasks: list[CaptionRetrieval], rows: CaptionRows
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return each task's recall@1, and the alignment and uniformity of its captions (`ml.metrics`).

    All are computed in the precision of the weights.
    """
    recalls, geometry = {}, {}
    for name, embedded in _by_llm(encoder, tasks, rows, encoder.precision):
        positives = embedded.candidates[embedded.groups]
        recalls[name] = embedded.recall_at_1()
        geometry[name] = {
            "alignment": alignment(embedded.queries, positives),
            "uniformity": uniformity(positives),
        }
    return recalls, geometry


def _by_llm(
    encoder: TextEncoder, tasks: list[CaptionRetrieval], rows: CaptionRows, precision: str
) -> Iterator[tuple[str, Embedded]]:
    encoder.model.eval()

    def vectors(texts: list[str]) -> Tensor:
        return encode(encoder, texts, BATCH_TOKENS, precision)

    for task in tasks:
        yield task.name, embed_pairs(*captions_of(task, rows), vectors)


def tfidf_recalls(tasks: list[CaptionRetrieval], rows: CaptionRows) -> dict[str, float]:
    """Return recall@1 of each task by TF-IDF, a control that only counts words."""
    recalls = {}
    for task in tasks:
        first, second = captions_of(task, rows)
        recalls[task.name] = _recall_at_1(word_ranks(first, *distinct(second)))
    return recalls


def captions_of(task: CaptionRetrieval, rows: CaptionRows) -> tuple[list[str], list[str]]:
    """Return caption 0 of `first` and caption 0 of `second` for the rows that have both.

    Where both are one column, the second caption is caption 1.

    Raises:
        ConfigurationError: fewer than two rows have both.
    """
    second_number = 1 if task.first == task.second else 0
    has_both = (rows.counts(task.first) > 0) & (rows.counts(task.second) > second_number)
    row_numbers = np.flatnonzero(has_both).tolist()
    if len(row_numbers) < 2:
        raise ConfigurationError(
            f"tune_llm.caption_retrieval {task.name}: {len(row_numbers)} validation rows have {task.first} "
            f"and {task.second}; expected 2 or more"
        )
    return (
        [rows.captions(row, task.first)[0] for row in row_numbers],
        [rows.captions(row, task.second)[second_number] for row in row_numbers],
    )


@dataclass(frozen=True)
class Embedded:
    """Embedded captions, rows of length 1; equal candidate texts share one row.

    Attributes:
        queries: (N, d).
        candidates: (M, d).
        groups: (N,) index of each query's candidate.
    """

    queries: Tensor
    candidates: Tensor
    groups: Tensor

    def recall_at_1(self) -> float:
        """Return the share of queries whose own candidate ranks first."""
        candidate_indices = torch.arange(len(self.candidates))
        return _recall_at_1(true_ranks(self.queries, self.candidates, self.groups, candidate_indices))


def embed_pairs(first: list[str], second: list[str], vectors: Vectors) -> Embedded:
    """Embed queries `first` and their candidates `second`, given in the same order."""
    unique_texts, groups = distinct(second)
    queries, candidates = (
        torch.nn.functional.normalize(vectors(texts), dim=1) for texts in (first, unique_texts)
    )
    return Embedded(queries, candidates, groups)


def _recall_at_1(ranks: Tensor) -> float:
    return float((ranks == 0).double().mean())
