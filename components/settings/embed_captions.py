"""Params of embed_captions."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.settings.requests import HttpRequests
from components.settings.section import Count, Name, Positive, Rate, Section

LLMS = ("base", "tuned")
RESERVED = {*LLMS, "own"}  # what an arm's `text` says besides


class SentenceTransformersModel(Section):
    """A model of `base_models.text_encoders`; needs the extra `sentence-transformers`."""

    kind: Literal["sentence_transformers"]
    name: Name
    model: Name
    batch_tokens: Positive
    precision: Literal["fp32", "bf16"]


class EndpointEncoder(Section):
    """A model behind an OpenAI-compatible endpoint, which LLM2CLIP_EMBEDDING_ENDPOINT names."""

    kind: Literal["endpoint"]
    name: Name
    model: str = Field(min_length=1)  # as the endpoint calls it
    revision: str  # any text: another one has all captions embedded again, by other weights of the same name
    dimensions: Positive  # numbers a vector; another count is refused
    asks_dimensions: bool  # whether the server is told of them, to shorten its vectors; some refuse that
    batch_size: Positive  # texts a request
    max_characters: Positive  # of a text; the rest is left out: servers refuse what they cannot read whole
    requests: HttpRequests


OtherEncoder = Annotated[SentenceTransformersModel | EndpointEncoder, Field(discriminator="kind")]


class EmbedCaptions(Section):
    """Params of embed_captions."""

    llms: list[Literal["base", "tuned"]] = Field(min_length=1)
    others: list[OtherEncoder] = Field(default_factory=list)
    batch_tokens: Positive = 16_384
    precision: Literal["fp32", "bf16"] = "fp32"
    recheck_rows: Count = 16  # captions of a shard and column that are encoded again
    min_recheck_cosine: Rate = 0.999

    @property
    def names(self) -> list[str]:
        """All that fill a cache: what an arm's `text` may be."""
        return [*self.llms, *(one.name for one in self.others)]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        others = [one.name for one in self.others]
        if taken := sorted({name for name in others if others.count(name) > 1 or name in RESERVED}):
            raise ValueError(f"others: expected other names than {', '.join(taken)}: taken, or used twice")
        return self
