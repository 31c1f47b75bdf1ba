"""Draw positive pairs of captions, as a function of phase, seed and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.errors import ConfigurationError
from components.ml.schedule import SEED_STRIDE, batch_rows
from components.settings.tune_llm import PairKind, Phase
from components.tune_llm.caption_rows import CaptionRows

NOBODY = -1


@dataclass(frozen=True)
class PairBatch:
    """Caption pairs of one step, all of one kind, and negatives that match none of them.

    Attributes:
        first: B query captions.
        second: Their positives.
        query_prompt: Put before each of `first`.
        rows: Row number of each pair.
        negatives: N further captions.
        negative_rows: Row number of each negative; `NOBODY` where it was written as a wrong answer.
    """

    first: list[str]
    second: list[str]
    query_prompt: str
    rows: list[int]
    negatives: list[str] = field(default_factory=list)
    negative_rows: list[int] = field(default_factory=list)


class PairDraws:
    """The batches of one phase.

    The kind of pair is drawn by weight once a step, so each batch has one kind. A row without the columns of
    a kind takes no part in it. Each epoch of a kind goes through its rows in a new order. Which caption of a
    column stands for a row is drawn at each step.

    Args:
        rows: All train rows.
        phase: Its pair kinds, weights, steps and batch size.
        seed: Of the phase.

    Raises:
        ConfigurationError: fewer than two rows have the columns of a kind.
    """

    def __init__(self, rows: CaptionRows, phase: Phase, seed: int) -> None:
        self.phase = phase
        self.seed = seed
        self.kinds = [kind for kind in phase.pairs if kind.weight > 0]
        if not self.kinds:
            raise ConfigurationError("tune_llm.phases: all pairs have weight 0; expected one above 0")
        self.all_rows = rows
        self.rows = [_rows_with(rows, kind) for kind in self.kinds]
        # for each kind, mined negatives: (rows, kept), padded with `NOBODY`
        self.near: list[Tensor] = []
        generator = torch.Generator().manual_seed(seed)
        weights = torch.tensor([kind.weight for kind in self.kinds])
        kind_numbers = torch.multinomial(weights, max(1, phase.steps), replacement=True, generator=generator)
        self.kind_at: list[int] = kind_numbers.tolist()

    def rows_by_kind(self) -> dict[str, int]:
        """Return the number of rows of each kind of pair."""
        return {
            f"{kind.first}-{kind.second}": len(rows) for kind, rows in zip(self.kinds, self.rows, strict=True)
        }

    def batch(self, step: int) -> PairBatch:
        """Return the pairs of a step."""
        kind_number = self.kind_at[step]
        kind, rows = self.kinds[kind_number], self.rows[kind_number]
        earlier_batches = self.kind_at[:step].count(kind_number)
        row_indices = batch_rows(len(rows), self.phase.batch_size, self.seed + kind_number, earlier_batches)
        generator = torch.Generator().manual_seed(self.seed * SEED_STRIDE + step)
        row_numbers = rows[row_indices.numpy()].tolist()
        pairs = [_draw_pair(self.all_rows, row, kind, generator) for row in row_numbers]
        negatives = self._written_negatives(row_numbers, kind, generator) + self._mined_negatives(
            kind_number, row_indices, generator
        )
        return PairBatch(
            first=[first for first, _ in pairs],
            second=[second for _, second in pairs],
            query_prompt=kind.query_prompt,
            rows=row_numbers,
            negatives=[text for text, _ in negatives],
            negative_rows=[row for _, row in negatives],
        )

    def _written_negatives(
        self, row_numbers: list[int], kind: PairKind, generator: torch.Generator
    ) -> list[tuple[str, int]]:
        if kind.negative is None:
            return []
        return [
            (_draw_text(self.all_rows.captions(row, kind.negative), generator), NOBODY) for row in row_numbers
        ]

    def _mined_negatives(
        self, kind_number: int, row_indices: Tensor, generator: torch.Generator
    ) -> list[tuple[str, int]]:
        """Draw `per_pair` mined negatives for each row; missing ones are drawn from all rows of the kind."""
        if not self.near:
            return []
        near, rows, second = self.near[kind_number], self.rows[kind_number], self.kinds[kind_number].second
        per_pair = self.phase.mined_negatives.per_pair if self.phase.mined_negatives else 0
        negatives = []
        for index in row_indices.tolist():
            candidates = near[index][near[index] != NOBODY]
            order = torch.randperm(len(candidates), generator=generator)[:per_pair]
            random_indices = torch.randint(len(rows), (per_pair - len(order),), generator=generator)
            for row in rows[torch.cat([candidates[order].long(), random_indices]).numpy()].tolist():
                negatives.append((_draw_text(self.all_rows.captions(row, second), generator), row))
        return negatives


def _rows_with(rows: CaptionRows, kind: PairKind) -> NDArray[np.int64]:
    """Return the numbers of the rows that have the captions that a kind of pair needs."""
    min_counts = {kind.first: 1, kind.second: 1} | ({kind.negative: 1} if kind.negative else {})
    if kind.first == kind.second:
        min_counts[kind.first] = 2
    row_numbers = np.flatnonzero(
        np.all([rows.counts(column) >= count for column, count in min_counts.items()], axis=0)
    )
    if len(row_numbers) < 2:
        raise ConfigurationError(
            f"tune_llm.phases: {len(row_numbers)} train rows have a pair of {kind.first} and {kind.second}"
            f"{f' with {kind.negative}' if kind.negative else ''}; "
            f"expected 2 or more; the columns of train are {', '.join(rows.columns) or 'none'}"
        )
    return row_numbers


def _draw_pair(rows: CaptionRows, row: int, kind: PairKind, generator: torch.Generator) -> tuple[str, str]:
    first = rows.captions(row, kind.first)
    if kind.first == kind.second:
        first_number, second_number = torch.randperm(len(first), generator=generator)[:2].tolist()
        return first[first_number], first[second_number]
    return _draw_text(first, generator), _draw_text(rows.captions(row, kind.second), generator)


def _draw_text(texts: Sequence[str], generator: torch.Generator) -> str:
    return texts[int(torch.randint(len(texts), (), generator=generator))]
