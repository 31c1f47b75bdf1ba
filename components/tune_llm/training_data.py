"""Training data of tune_llm, the same for every process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from components.running.rows import Rows
from components.settings.params import Params
from components.settings.tune_llm import Phase
from components.storage.atomic import content_key
from components.storage.computed import code_of
from components.storage.layout import Layout
from components.storage.manifest import folder_key
from components.tune_llm.caption_rows import read_caption_rows, verify_files
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
        verify_files(layout)
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

    def decided_by(self, phases: Sequence[Phase]) -> dict[str, Any]:
        """Return what decides the weights after MNTP, if any, and some phases.

        Of the data these are the captions of train in the columns that are read; nothing that is only
        measured.
        """
        settings = self.params.tune_llm
        columns = {
            column for phase in phases for kind in phase.pairs if kind.weight for column in kind.columns
        }
        return {
            **self._models,
            "data": self.train_rows.digest(columns | set(settings.mntp.columns if settings.mntp else ())),
            "params": settings.model_dump(exclude=NOT_TRAINING),
            "mntp": settings.mntp.model_dump() if settings.mntp else None,
            "phases": [phase.model_dump() for phase in phases],
        }

    @cached_property
    def _models(self) -> dict[str, Any]:
        return {
            "code": code_of(self.layout.work("tune_llm"), "tune_llm", "llm"),
            "seed": self.params.seed,
            "llm": folder_key(self.layout.artifact("base_models"), "llm/"),
        }

    @cached_property
    def measured_by(self) -> str | None:
        """Hash of what decides the figures in a history; None where nothing is measured on the way."""
        settings = self.params.tune_llm
        if not settings.caption_retrieval_steps:
            return None
        tasks = settings.caption_retrieval
        columns = {column for task in tasks for column in (task.first, task.second)}
        return content_key(
            [
                settings.caption_retrieval_steps,
                [task.model_dump() for task in tasks],
                self.validation_rows.digest(columns),
            ]
        )

    @property
    def llm(self) -> Path:
        """Folder of the base model."""
        return self.layout.artifact("base_models") / "llm"
