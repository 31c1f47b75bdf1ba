"""Positive pairs of captions, drawn anew for each step; a function of rows, phase, seed and step alone."""

from __future__ import annotations

import torch

from components.faults import ConfigurationFault
from components.running.training import SEED_STRIDE, batch_rows
from components.settings.tune_llm import PairKind, Phase
from components.tune_llm.caption_rows import CaptionRow


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
        ConfigurationFault: fewer than two rows have the columns of a kind.
    """

    def __init__(self, rows: list[CaptionRow], phase: Phase, seed: int) -> None:
        self.phase = phase
        self.seed = seed
        self.kinds = [kind for kind in phase.pairs if kind.weight > 0]
        if not self.kinds:
            raise ConfigurationFault("tune_llm.phases: all pairs have weight 0; expected one above 0")
        self.rows = [_rows_with(rows, kind) for kind in self.kinds]
        generator = torch.Generator().manual_seed(seed)
        weights = torch.tensor([kind.weight for kind in self.kinds])
        drawn = torch.multinomial(weights, max(1, phase.steps), replacement=True, generator=generator)
        self.kind_at: list[int] = drawn.tolist()

    def rows_by_kind(self) -> dict[str, int]:
        """Return how many rows take part in each kind of pair."""
        return {
            f"{kind.first}-{kind.second}": len(rows) for kind, rows in zip(self.kinds, self.rows, strict=True)
        }

    def batch(self, step: int) -> tuple[list[str], list[str]]:
        """Return the first and the second captions of a step's pairs."""
        number = self.kind_at[step]
        kind, rows = self.kinds[number], self.rows[number]
        earlier = self.kind_at[:step].count(number)
        chosen = batch_rows(len(rows), self.phase.batch_size, self.seed + number, earlier)
        generator = torch.Generator().manual_seed(self.seed * SEED_STRIDE + step)
        pairs = [_draw(rows[row].captions, kind, generator) for row in chosen.tolist()]
        return [first for first, _ in pairs], [second for _, second in pairs]


def _rows_with(rows: list[CaptionRow], kind: PairKind) -> list[CaptionRow]:
    least = 2 if kind.first == kind.second else 1
    found = [
        row
        for row in rows
        if all(len(row.captions.get(column, [])) >= least for column in (kind.first, kind.second))
    ]
    if len(found) < 2:
        columns = sorted({column for row in rows for column in row.captions})
        raise ConfigurationFault(
            f"tune_llm.phases: {len(found)} train rows have a pair of {kind.first} and {kind.second}; "
            f"expected 2 or more; the columns of train are {', '.join(columns) or 'none'}"
        )
    return found


def _draw(captions: dict[str, list[str]], kind: PairKind, generator: torch.Generator) -> tuple[str, str]:
    first, second = captions[kind.first], captions[kind.second]
    if kind.first == kind.second:
        one, other = torch.randperm(len(first), generator=generator)[:2].tolist()
        return first[one], first[other]
    one = int(torch.randint(len(first), (), generator=generator))
    other = int(torch.randint(len(second), (), generator=generator))
    return first[one], second[other]
