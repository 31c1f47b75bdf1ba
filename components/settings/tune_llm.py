"""Params of tune_llm."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from components.settings.section import Count, Name, Positive, Rate, Section, Share, Weight, twice_in

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Lora(Section):
    """Low-rank adapters on the named projections."""

    rank: Positive = 16
    alpha: Positive = 32
    dropout: Share = 0.05
    targets: list[str] = Field(default_factory=lambda: list(PROJECTIONS), min_length=1)


class PairKind(Section):
    """Positive pairs: a caption of one column with another caption of the same row in the other column."""

    first: Name
    second: Name
    # a column of wrong answers to `first`; each row's answer is a negative of the whole batch
    negative: Name | None = None
    query_prompt: str = ""  # prefix of the first caption, left out of pooling; "" for none
    weight: Weight = 1.0

    @property
    def columns(self) -> set[str]:
        """The columns that it reads."""
        return {self.first, self.second} | ({self.negative} if self.negative else set())


class MinedNegatives(Section):
    """Hard negatives: captions of other rows that the model at phase start finds near (arXiv 2407.15831)."""

    per_pair: Positive  # negatives in the batch for each pair, drawn from those kept
    kept: Positive  # nearest captions kept for each row
    pool_rows: Positive  # rows per random pool; rows of a pool are compared with each other
    max_share_of_positive: (
        Share  # greatest share of the positive pair's cosine; a nearer caption may be true as well
    )


class Phase(Section):
    """A training phase: steps over one mix of pairs."""

    steps: Count
    batch_size: Positive  # pairs, over all processes
    learning_rate: Rate
    warmup_steps: Count
    pairs: list[PairKind] = Field(min_length=1)
    mined_negatives: MinedNegatives | None = None

    @model_validator(mode="after")
    def _kinds_differ(self) -> Phase:
        if twice := twice_in([(kind.first, kind.second) for kind in self.pairs]):
            raise ValueError(f"pairs of {' and '.join(twice)} stand twice; expected once in a phase")
        return self

    @model_validator(mode="after")
    def _keeps_enough(self) -> Phase:
        mined = self.mined_negatives
        if mined and mined.kept < mined.per_pair:
            raise ValueError(
                f"mined_negatives keeps {mined.kept} and draws {mined.per_pair}; expected no more"
            )
        return self


class Mntp(Section):
    """Masked next token prediction before the phases (LLM2Vec, arXiv 2404.05961)."""

    columns: list[Name] = Field(min_length=1)  # columns of the captions to train on
    steps: Count
    batch_size: Positive  # captions, over all processes
    learning_rate: Rate
    warmup_steps: Count
    masked_share: Annotated[float, Field(gt=0, lt=1)]  # share of a caption's tokens
    mask: Annotated[str, Field(min_length=1)]  # a text of one token, which replaces the masked tokens


class Encoding(Section):
    """How a text becomes one vector; embed_captions and the release use the same."""

    attention: Literal["bidirectional", "causal"] = "bidirectional"
    pooling: Literal["mean", "last"] = "mean"
    template: str = "{text}"  # chat template; "{text}" for none
    max_tokens: Positive = 512

    @field_validator("template")
    @classmethod
    def _holds_the_text_once(cls, template: str) -> str:
        if (times := template.count("{text}")) != 1:
            raise ValueError(f"expected {{text}} once, found it {times} times in {template!r}")
        return template


class CaptionRetrieval(Section):
    """Caption retrieval (CRA): caption `first` finds `second` of its row among all rows of the split."""

    name: Name
    first: Name
    second: Name


class TuneLlm(Section):
    """Params of tune_llm: caption-contrastive tuning (docs/method.md, 1)."""

    method: Literal["lora", "full"] = "lora"
    lora: Lora | None = Field(default_factory=Lora)
    encoding: Encoding = Field(default_factory=Encoding)
    temperature: Rate  # tau
    symmetric: bool = False
    same_side_negatives: bool = False  # queries are also negatives of queries, and answers of answers
    false_negative_margin: Weight | None = (
        None  # a caption nearer than the positive by more than this is no negative
    )
    # share of a caption's tokens dropped at each step
    token_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    embedding_rate_factor: Rate = (
        1.0  # relative learning rate of the token embeddings; lora does not train them
    )
    weight_decay: Weight = 0.0
    max_gradient_norm: Rate = 1.0
    chunks: Positive = 1  # greatest number of length-sorted chunks of a process's batch; see gradient_cache
    # keep one chunk in memory at a time, at the cost of another forward pass. Chunks are then cut so that the
    # largest has as few tokens as possible; otherwise each has as many captions
    gradient_cache: bool = False
    gradient_checkpointing: bool = (
        False  # keep one block in memory at a time, at the cost of another forward pass
    )
    # auto: bf16 on devices known to be fast at it
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    mntp: Mntp | None = None
    phases: list[Phase] = Field(min_length=1)
    caption_retrieval: list[CaptionRetrieval] = Field(min_length=1)
    # steps between measurements for the history; null: only at the end
    caption_retrieval_steps: Positive | None = None
    # least gain of the first entry's recall_at_1 over the untuned LLM; otherwise exit 5
    min_caption_retrieval_gain: float = 0.05
    checkpoint_steps: Positive = 100

    @field_validator("caption_retrieval")
    @classmethod
    def _distinct(cls, tasks: list[CaptionRetrieval]) -> list[CaptionRetrieval]:
        if twice := twice_in([task.name for task in tasks]):
            raise ValueError(f"{twice} stands twice; expected a name for each")
        return tasks

    @field_validator("phases")
    @classmethod
    def _one_prompt_each(cls, phases: list[Phase]) -> list[Phase]:
        kinds = {(kind.first, kind.second, kind.query_prompt) for phase in phases for kind in phase.pairs}
        prompted = sorted((first, second) for first, second, prompt in kinds if prompt)
        if twice := twice_in(prompted):
            raise ValueError(f"pairs of {' and '.join(twice)} have two query prompts; expected one")
        return phases

    @model_validator(mode="after")
    def _lora_is_given(self) -> TuneLlm:
        if self.method == "lora" and self.lora is None:
            raise ValueError("method is lora and lora is null; expected rank, alpha, dropout and targets")
        return self
