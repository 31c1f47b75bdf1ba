"""Params of embed_captions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.settings.section import Count, Positive, Rate, Section


class EmbedCaptions(Section):
    """Params of embed_captions."""

    llms: list[Literal["base", "tuned"]] = Field(min_length=1)
    batch_tokens: Positive
    precision: Literal["fp32", "bf16"]
    recheck_rows: Count  # captions of a shard and column that are encoded again
    min_recheck_cosine: Rate
