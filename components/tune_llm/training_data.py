"""Training data of tune_llm, the same for every process."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from components.running.rows import Rows
from components.settings.params import Params
from components.storage.computed import code_of
from components.storage.layout import Layout
from components.storage.manifest import folder_key
from components.tune_llm.caption_rows import data_key, read_caption_rows
from components.tune_llm.pairs import PairDraws

NOT_TRAINING = {
    "phases",
    "mntp",
    "caption_retrieval",
    "caption_retrieval_steps",
    "min_caption_retrieval_gain",
    "checkpoint_steps",
}


class TrainingData:
    """Captions, row counts and batches of training, the same for every process.

    Attributes:
        rows: Row counts.
        train_rows: Captions to train on.
        validation_rows: Captions to measure on.
        draws: The batches of each phase.

    Args:
        params: Of the run.
        layout: Paths of the artifacts and of the work store.
    """

    def __init__(self, params: Params, layout: Layout) -> None:
        self.params, self.layout, self.rows = params, layout, Rows()
        self.train_rows = read_caption_rows(layout, "train", self.rows)
        self.validation_rows = read_caption_rows(layout, "validation", Rows())
        phases = enumerate(params.tune_llm.phases, start=1)
        self.draws = [PairDraws(self.train_rows, phase, self.seed_of(number)) for number, phase in phases]
        self._count()

    def seed_of(self, number: int) -> int:
        """Return the seed of a phase, numbered from 1."""
        return self.params.seed + number

    def _count(self) -> None:
        is_used = np.zeros(len(self.train_rows), bool)
        for pairs in self.draws:
            for row_numbers in pairs.rows:
                is_used[row_numbers] = True
        if mntp := self.params.tune_llm.mntp:
            for column in mntp.columns:
                is_used |= self.train_rows.counts(column) > 0
        self.rows.accept(int(is_used.sum()))
        self.rows.reject("no_pair_of_columns", int((~is_used).sum()))

    @cached_property
    def decided_by(self) -> dict[str, Any]:
        """Identity of a training run: what decides all phases. Verifies the files that it names."""
        settings = self.params.tune_llm
        return {
            "code": code_of(self.layout.work("tune_llm"), "tune_llm", "llm"),
            "seed": self.params.seed,
            "llm": folder_key(self.layout.artifact("base_models"), "llm/"),
            "data": data_key(self.layout),
            "params": settings.model_dump(exclude=NOT_TRAINING),
            "mntp": settings.mntp.model_dump() if settings.mntp else None,
        }

    @property
    def llm(self) -> Path:
        """Folder of the base model."""
        return self.layout.artifact("base_models") / "llm"
