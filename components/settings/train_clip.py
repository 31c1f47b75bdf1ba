"""Params of train_clip."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from components.settings.section import Count, Name, Positive, Rate, Section, Share, Weight

RESERVED = {"base_clip", "history"}  # an arm of evaluate, a folder of train_clip


class Arm(Section):
    """One model to train: against cached embeddings, or with CLIP's own text tower."""

    name: Name
    text: Name  # one of embed_captions.llms or the name of one of its others; `own` is CLIP's text tower
    context_tokens: Positive | None  # for `own`: its context length
    vision_learning_rate: Rate
    text_learning_rate: Rate  # of the adapter, or of CLIP's own text tower


class Adapter(Section):
    """The residual-MLP text adapter (METHOD 3)."""

    blocks: Count
    expansion: Positive
    dropout: Share
    standardise: bool  # centre and scale the cached embeddings first, by the training captions


class Augmentation(Section):
    """What is drawn anew for each image and step."""

    min_crop: Annotated[float, Field(gt=0, le=1)]  # share of the area; 1 leaves images whole
    flip: bool
    colour_jitter: Share


class TrainClip(Section):
    """Params of train_clip."""

    arms: list[Arm] = Field(min_length=1)
    caption_mix: dict[str, Weight] = Field(min_length=1)
    # captions whose tuned embeddings have this cosine or more are no negatives of each other's images
    false_negative_cosine: Share | None
    steps: Count
    batch_size: Positive
    new_projection: bool  # drop the vision tower's projection and start a new one (METHOD 3)
    projection_dim: Positive
    layer_decay: Rate
    warmup_steps: Count
    weight_decay: Weight
    max_gradient_norm: Rate
    initial_logit_scale: Rate | None  # None: as the base CLIP has it
    max_logit_scale: Rate
    adapter: Adapter
    augmentation: Augmentation
    precision: Literal["fp32", "bf16"]
    checkpoint_steps: Positive

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
