"""Params of train_clip."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from components.settings.evaluate import RetrievalTask
from components.settings.section import Count, Name, Positive, Rate, Section, Share, Weight

RESERVED = {"base_clip", "history"}  # an arm of evaluate, a folder of train_clip


Decay = Annotated[float, Field(ge=0, lt=1)]


class LogitScale(Section):
    """1/temperature, which learns."""

    initial: Rate | None = None  # None: as the base CLIP has it
    maximum: Rate = 100.0
    learning_rate: Rate


class Arm(Section):
    """One model to train: against cached embeddings, or with CLIP's own text tower."""

    name: Name
    text: Name  # one of embed_captions.llms or the name of one of its others; `own` is CLIP's text tower
    context_tokens: Positive | None = None  # for `own`: its context length
    steps: Count  # arms may differ: at equal cost, not at equal steps, cached text is worth what it saves
    captions_per_image: Positive = 1  # drawn for each image and step; each is a positive of its own
    caption_negatives: Count = 0  # captions of other images beside a batch's, which no image of it belongs to
    vision_learning_rate: Rate
    text_learning_rate: Rate  # of the adapter, or of CLIP's own text tower
    logit_scale: LogitScale


class AdapterSettings(Section):
    """The residual-MLP text adapter (docs/method.md, 3)."""

    blocks: Count = 4
    expansion: Positive = 2
    dropout: Share = 0.0
    standardise: bool = False  # centre and scale the cached embeddings first, by the training captions


class Augmentation(Section):
    """What is drawn anew for each image and step."""

    min_crop: Annotated[float, Field(gt=0, le=1)] = 0.9  # share of the area; 1 leaves images whole
    flip: bool = False
    colour_jitter: Share = 0.0
    picture_size: Positive | None = None  # pixels of a side that crops are cut from; None: the tower's


class ValidationSettings(Section):
    """Retrieval on the validation split, measured on the way."""

    steps: Positive | None = None  # every so many, and after the last; None: never
    recall_at: Positive = 1  # the k of the recall that is measured
    keep: Literal["last", "best"] = "last"  # which weights an arm ends with; best: of the highest mean recall
    retrieval: list[RetrievalTask] = Field(default_factory=list)

    @model_validator(mode="after")
    def _has_what_it_measures(self) -> Self:
        if (self.steps is None) != (not self.retrieval):
            raise ValueError("validation: give steps and retrieval tasks, or null and []")
        if self.steps is None and self.keep == "best":
            raise ValueError("validation: keep best needs steps at which it is measured")
        return self


class TrainClip(Section):
    """Params of train_clip."""

    arms: list[Arm] = Field(min_length=1)
    equal_cost: str | None = None  # what arms of different steps have in common; the report says it
    caption_mix: dict[str, Weight] = Field(min_length=1)
    # captions whose tuned embeddings have this cosine or more are no negatives of each other's images
    false_negative_cosine: Share | None = None
    batch_size: Positive
    new_projection: bool = True  # drop the vision tower's projection and start a new one (docs/method.md, 3)
    projection_dim: Positive
    layer_decay: Rate = 1.0
    warmup_steps: Count
    weight_decay: Weight = 0.05
    betas: Annotated[list[Decay], Field(min_length=2, max_length=2)] = Field(
        default_factory=lambda: [0.9, 0.999]
    )  # of AdamW's two moving averages
    max_gradient_norm: Rate = 5.0
    adapter: AdapterSettings = Field(default_factory=AdapterSettings)
    augmentation: Augmentation = Field(default_factory=Augmentation)
    precision: Literal["fp32", "bf16", "auto"] = (
        "auto"  # auto: bf16 where the device is known to be fast at it
    )
    validation: ValidationSettings = Field(default_factory=ValidationSettings)
    checkpoint_steps: Positive = 100

    @field_validator("arms")
    @classmethod
    def _distinct(cls, arms: list[Arm]) -> list[Arm]:
        names = [arm.name for arm in arms]
        if taken := {name for name in names if names.count(name) > 1 or name in RESERVED}:
            raise ValueError(f"expected other names than {', '.join(sorted(taken))}: taken, or used twice")
        return arms

    @field_validator("caption_mix")
    @classmethod
    def _draws_something(cls, mix: dict[str, float]) -> dict[str, float]:
        if not any(mix.values()):
            raise ValueError("expected a weight above 0 for at least one column")
        return mix
