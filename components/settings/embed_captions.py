"""Params of embed_captions."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.settings.requests import HttpRequests
from components.settings.section import Count, Name, Positive, Rate, Section

LLMS = ("base", "tuned")
RESERVED = {*LLMS, "own"}  # values of an arm's `text` that are no encoder name


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
    model: str = Field(min_length=1)  # the name that the endpoint uses
    revision: str  # any text; a new value embeds all captions again, for other weights of the same name
    dimensions: Positive  # length of a vector; another length is refused
    asks_dimensions: bool  # whether requests send `dimensions`, to shorten vectors; some servers refuse it
    batch_size: Positive  # texts per request
    max_characters: (
        Positive  # of a text; longer texts are cut, because servers refuse what they cannot read whole
    )
    requests: HttpRequests


OtherEncoder = Annotated[SentenceTransformersModel | EndpointEncoder, Field(discriminator="kind")]


class EmbedCaptions(Section):
    """Params of embed_captions."""

    llms: list[Literal["base", "tuned"]] = Field(min_length=1)
    others: list[OtherEncoder] = Field(default_factory=list)
    batch_tokens: Positive = 16_384
    precision: Literal["fp32", "bf16"] = "fp32"
    recheck_rows: Count = 16  # captions per shard and column that are encoded twice as a check
    min_recheck_cosine: Rate = 0.999

    @property
    def names(self) -> list[str]:
        """Names of all encoders: the allowed values of an arm's `text` besides `own`."""
        return [*self.llms, *(encoder.name for encoder in self.others)]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [encoder.name for encoder in self.others]
        if clashes := sorted({name for name in names if names.count(name) > 1 or name in RESERVED}):
            raise ValueError(f"others: expected other names than {', '.join(clashes)}: taken, or used twice")
        return self
