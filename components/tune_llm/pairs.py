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
    """The pairs of one step, all of one kind, and texts that answer none of them.

    Attributes:
        first: B captions that ask.
        second: Their answers.
        query_prompt: Put before each of `first`.
        rows: Which row each pair is of.
        negatives: N further captions.
        negative_rows: Which row each is of, `NOBODY` where it was written as a wrong answer.
    """

    first: list[str]
    second: list[str]
    query_prompt: str
    rows: list[int]
    negatives: list[str] = field(default_factory=list)
    negative_rows: list[int] = field(default_factory=list)


class PairDraws:
    """The batches of one phase.

    The kind of each step's batch is drawn by weight, so that a batch is of one kind; a row without the
    columns of a kind takes no part in it. Within a kind, epochs run over its rows in a new order each, and
    which of a column's captions stands for a row is drawn at each step.

    Args:
        rows: All of train.
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
        self.near: list[
            Tensor
        ] = []  # for each kind, mined negatives: (rows, kept), `NOBODY` where there is none
        generator = torch.Generator().manual_seed(seed)
        weights = torch.tensor([kind.weight for kind in self.kinds])
        drawn = torch.multinomial(weights, max(1, phase.steps), replacement=True, generator=generator)
        self.kind_at: list[int] = drawn.tolist()

    def rows_by_kind(self) -> dict[str, int]:
        """Return how many rows take part in each kind of pair."""
        return {
            f"{kind.first}-{kind.second}": len(rows) for kind, rows in zip(self.kinds, self.rows, strict=True)
        }

    def batch(self, step: int) -> PairBatch:
        """Return the pairs of a step."""
        number = self.kind_at[step]
        kind, rows = self.kinds[number], self.rows[number]
        earlier = self.kind_at[:step].count(number)
        chosen = batch_rows(len(rows), self.phase.batch_size, self.seed + number, earlier)
        generator = torch.Generator().manual_seed(self.seed * SEED_STRIDE + step)
        places = rows[chosen.numpy()].tolist()
        pairs = [_draw(self.all_rows, place, kind, generator) for place in places]
        negatives = self._written(places, kind, generator) + self._mined(number, chosen, generator)
        return PairBatch(
            first=[first for first, _ in pairs],
            second=[second for _, second in pairs],
            query_prompt=kind.query_prompt,
            rows=places,
            negatives=[text for text, _ in negatives],
            negative_rows=[row for _, row in negatives],
        )

    def _written(
        self, places: list[int], kind: PairKind, generator: torch.Generator
    ) -> list[tuple[str, int]]:
        if kind.negative is None:
            return []
        return [
            (_one_of(self.all_rows.captions(place, kind.negative), generator), NOBODY) for place in places
        ]

    def _mined(self, number: int, chosen: Tensor, generator: torch.Generator) -> list[tuple[str, int]]:
        """Draw for each chosen row so many of its near rows; one that has fewer lends from the whole pool."""
        if not self.near:
            return []
        near, rows, second = self.near[number], self.rows[number], self.kinds[number].second
        per_pair = self.phase.mined_negatives.per_pair if self.phase.mined_negatives else 0
        found = []
        for place in chosen.tolist():
            there = near[place][near[place] != NOBODY]
            order = torch.randperm(len(there), generator=generator)[:per_pair]
            others = torch.randint(len(rows), (per_pair - len(order),), generator=generator)
            for row in rows[torch.cat([there[order].long(), others]).numpy()].tolist():
                found.append((_one_of(self.all_rows.captions(row, second), generator), row))
        return found


def _rows_with(rows: CaptionRows, kind: PairKind) -> NDArray[np.int64]:
    """Return the numbers of the rows that have what a kind of pair takes."""
    least = {kind.first: 1, kind.second: 1} | ({kind.negative: 1} if kind.negative else {})
    if kind.first == kind.second:
        least[kind.first] = 2
    found = np.flatnonzero(np.all([rows.counts(column) >= count for column, count in least.items()], axis=0))
    if len(found) < 2:
        raise ConfigurationError(
            f"tune_llm.phases: {len(found)} train rows have a pair of {kind.first} and {kind.second}"
            f"{f' with {kind.negative}' if kind.negative else ''}; "
            f"expected 2 or more; the columns of train are {', '.join(rows.columns) or 'none'}"
        )
    return found


def _draw(rows: CaptionRows, row: int, kind: PairKind, generator: torch.Generator) -> tuple[str, str]:
    first = rows.captions(row, kind.first)
    if kind.first == kind.second:
        one, other = torch.randperm(len(first), generator=generator)[:2].tolist()
        return first[one], first[other]
    return _one_of(first, generator), _one_of(rows.captions(row, kind.second), generator)


def _one_of(texts: Sequence[str], generator: torch.Generator) -> str:
    return texts[int(torch.randint(len(texts), (), generator=generator))]
