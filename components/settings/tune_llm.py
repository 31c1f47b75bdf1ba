"""Params of tune_llm."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.settings.section import Count, Name, Positive, Rate, Section, Share, Weight


class Lora(Section):
    """Low-rank adapters on the named projections."""

    rank: Positive
    alpha: Positive
    dropout: Share
    targets: list[str] = Field(min_length=1)


class PairKind(Section):
    """Positive pairs: a caption of one column with another caption of the same row in the other column."""

    first: Name
    second: Name
    weight: Weight


class Phase(Section):
    """A run of steps over one mix of pairs."""

    steps: Count
    batch_size: Positive  # pairs
    learning_rate: Rate
    warmup_steps: Count
    pairs: list[PairKind] = Field(min_length=1)


class Encoding(Section):
    """How a text becomes one vector; embed_captions and the release use the same."""

    attention: Literal["bidirectional", "causal"]
    pooling: Literal["mean", "last"]
    template: Annotated[str, Field(pattern=r"\{text\}")]  # chat wrap; "{text}" for none
    max_tokens: Positive


class CaptionRetrieval(Section):
    """CRA: caption `first` finds caption `second` of the same row among all rows of the split."""

    name: Name
    first: Name
    second: Name


class TuneLlm(Section):
    """Params of tune_llm: caption-contrastive tuning (METHOD 1)."""

    method: Literal["lora", "full"]
    lora: Lora | None
    encoding: Encoding
    query_prompt: str  # put before the first caption of a pair and left out of pooling
    temperature: Rate  # tau
    symmetric: bool
    embedding_rate_factor: (
        Rate  # learning rate of the token embeddings, relative; lora leaves them as they are
    )
    weight_decay: Weight
    max_gradient_norm: Rate
    chunks: Positive  # length-sorted chunks a batch is split into
    precision: Literal["fp32", "bf16"]
    phases: list[Phase] = Field(min_length=1)
    caption_retrieval: list[CaptionRetrieval] = Field(min_length=1)
    min_caption_retrieval_gain: float  # of the first entry's recall_at_1 over the untuned LLM; else exit 5
    checkpoint_steps: Positive

    @model_validator(mode="after")
    def _lora_is_given(self) -> TuneLlm:
        if self.method == "lora" and self.lora is None:
            raise ValueError("method is lora and lora is null; expected rank, alpha, dropout and targets")
        return self
