"""Params of evaluate."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field, field_validator

from components.settings.section import Count, Language, Name, Positive, Section
from components.settings.tune_llm import CaptionRetrieval


class RetrievalTask(Section):
    """Images of a split against the captions of one column."""

    name: Name
    column: Name
    language: Language


class ZeroShotTask(Section):
    """Zero-shot classification of test images by prompts built from each class name."""

    name: Name
    label: Name  # name of a label that the source gives its rows
    templates: list[Annotated[str, Field(pattern=r"\{label\}")]] = Field(min_length=1)


Task = TypeVar("Task", RetrievalTask, ZeroShotTask, CaptionRetrieval)


class Evaluate(Section):
    """Params of evaluate."""

    retrieval: list[RetrievalTask] = Field(min_length=1)
    zero_shot: list[ZeroShotTask] = Field(default_factory=list)
    caption_retrieval: list[CaptionRetrieval] = Field(default_factory=list)
    recall_at: list[Positive] = Field(default_factory=lambda: [1, 5, 10], min_length=1)
    bootstrap_samples: Positive = 1000
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95  # share of bootstrap samples inside an interval
    gallery_rows: Count = 8  # captions per task that the report shows with their results

    @field_validator("recall_at")
    @classmethod
    def _has_one(cls, recall_at: list[int]) -> list[int]:
        if 1 not in recall_at:
            raise ValueError("expected 1 among them: tables and gates use recall at 1")
        return recall_at

    @field_validator("retrieval", "zero_shot", "caption_retrieval")
    @classmethod
    def _distinct(cls, tasks: list[Task]) -> list[Task]:
        if len({task.name for task in tasks}) < len(tasks):
            raise ValueError("expected names that differ")
        return tasks
