"""Params of recaption."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.settings.section import Name, Positive, Section, Share
from components.settings.sources import Split


class ModelCaptioner(Section):
    """The captioner of base_models; writes columns `<name>_<kind>`."""

    kind: Literal["model"]
    name: Name
    writes: list[Literal["short", "dense"]] = Field(min_length=1)
    splits: list[Split] = Field(min_length=1)
    batch_size: Positive


class Take(Section):
    """A new column made of the captions of an existing one."""

    source: Name
    column: Name
    take: Literal["all", "first", "one_by_key", "others_joined", "rest_joined"]
    splits: list[Split] = Field(min_length=1)


class ColumnsCaptioner(Section):
    """Existing caption columns."""

    kind: Literal["columns"]
    name: Name
    columns: list[Take] = Field(min_length=1)

    @model_validator(mode="after")
    def _writes_once(self) -> Self:
        written = [(take.column, split) for take in self.columns for split in take.splits]
        if twice := sorted({one for one in written if written.count(one) > 1}):
            raise ValueError(f"column {twice[0][0]} of {twice[0][1]} is written twice")
        return self


Captioner = Annotated[ModelCaptioner | ColumnsCaptioner, Field(discriminator="kind")]


class Scores(Section):
    """Image-text similarity of every caption under the base CLIP, and agreement between captioners."""

    columns: list[Name] | None  # whose captions get a similarity; null: all
    batch_size: Positive  # images or texts embedded at once


class Recaption(Section):
    """Params of recaption."""

    captioners: list[Captioner]
    scores: Scores | None  # audit's curation by similarity, near images and heads reads them
    max_reject_share: Share

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [one.name for one in self.captioners]
        if len(set(names)) < len(names) or "source" in names:
            raise ValueError(
                f"captioners are named {', '.join(names)}; expected other names, and none `source`"
            )
        return self
