"""Params of register."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.settings.section import Name, Section, Share

MetricPath = Annotated[str, Field(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)*$")]  # keys of metrics/evaluate.json


class Gate(Section):
    """A metric of evaluate and the minimum that a release must reach."""

    metric: MetricPath
    minimum: Share


class Register(Section):
    """Params of register."""

    name: Name
    arm: Name
    gates: list[Gate]
    licence: str = Field(min_length=1)  # of the weights, for the model card
