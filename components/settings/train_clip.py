"""Params of train_clip."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from components.settings.evaluate import RetrievalTask
from components.settings.section import Count, Name, Positive, Rate, Section, Share, Weight

RESERVED = {"base_clip", "history"}  # names of an arm of evaluate, and of a folder of train_clip


Decay = Annotated[float, Field(ge=0, lt=1)]


class LogitScale(Section):
    """Learned logit scale, 1/temperature."""

    initial: Rate | None = None  # None: the value of the base CLIP
    maximum: Rate = 100.0
    learning_rate: Rate


class Arm(Section):
    """One model to train: against cached text embeddings, or with CLIP's own text tower."""

    name: Name
    text: Name  # a name in embed_captions.llms or others; `own` is CLIP's text tower
    context_tokens: Positive | None = None  # context length, for `own` only
    steps: Count  # arms may differ: cached text saves cost, so compare at equal cost, not at equal steps
    captions_per_image: Positive = 1  # captions drawn per image and step; each is a separate positive
    caption_negatives: Count = 0  # extra captions per batch that belong to none of its images
    vision_learning_rate: Rate
    text_learning_rate: Rate  # of the adapter, or of CLIP's own text tower
    logit_scale: LogitScale


class AdapterSettings(Section):
    """The residual-MLP text adapter (docs/method.md, 3)."""

    blocks: Count = 4
    expansion: Positive = 2
    dropout: Share = 0.0
    standardise: bool = (
        False  # first centre and scale the cached embeddings by statistics of the training captions
    )


class Augmentation(Section):
    """Random image augmentation, drawn for each image and step."""

    min_crop: Annotated[float, Field(gt=0, le=1)] = 0.9  # share of the area; 1 leaves images whole
    flip: bool = False
    colour_jitter: Share = 0.0
    picture_size: Positive | None = (
        None  # side in pixels of the image that crops are cut from; None: the tower's size
    )


class ValidationSettings(Section):
    """Retrieval on the validation split during training."""

    steps: Positive | None = None  # steps between measurements, also after the last step; None: never
    recall_at: Positive = 1  # k of the recall
    keep: Literal["last", "best"] = (
        "last"  # final weights of an arm; best: those with the highest mean recall
    )
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
    equal_cost: str | None = None  # text for the report: what arms of different steps have in common
    caption_mix: dict[str, Weight] = Field(min_length=1)
    # captions whose tuned embeddings have at least this cosine are no negatives of each other's images
    false_negative_cosine: Share | None = None
    batch_size: Positive
    new_projection: bool = True  # replace the vision tower's projection by a new one (docs/method.md, 3)
    projection_dim: Positive
    layer_decay: Rate = 1.0
    warmup_steps: Count
    weight_decay: Weight = 0.05
    betas: Annotated[list[Decay], Field(min_length=2, max_length=2)] = Field(
        default_factory=lambda: [0.9, 0.999]
    )  # AdamW's decay rates of the two moving averages
    max_gradient_norm: Rate = 5.0
    adapter: AdapterSettings = Field(default_factory=AdapterSettings)
    augmentation: Augmentation = Field(default_factory=Augmentation)
    precision: Literal["fp32", "bf16", "auto"] = "auto"  # auto: bf16 on devices known to be fast at it
    validation: ValidationSettings = Field(default_factory=ValidationSettings)
    checkpoint_steps: Positive = 100

    @field_validator("arms")
    @classmethod
    def _distinct(cls, arms: list[Arm]) -> list[Arm]:
        names = [arm.name for arm in arms]
        if clashes := {name for name in names if names.count(name) > 1 or name in RESERVED}:
            raise ValueError(f"expected other names than {', '.join(sorted(clashes))}: taken, or used twice")
        return arms

    @field_validator("caption_mix")
    @classmethod
    def _draws_something(cls, mix: dict[str, float]) -> dict[str, float]:
        if not any(mix.values()):
            raise ValueError("expected a weight above 0 for at least one column")
        return mix
