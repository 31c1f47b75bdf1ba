"""Params of base_models."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.settings.section import (
    BucketUri,
    Count,
    Name,
    Positive,
    Rate,
    RelativePath,
    Revision,
    Section,
    Sha256,
    Weight,
)
from components.settings.sources import Scenes, TextSource


class HubModel(Section):
    """A model on the Hugging Face hub; safetensors only, no remote code."""

    kind: Literal["hub"]
    id: str
    revision: Revision


class FolderModel(Section):
    """A model in Hugging Face layout in a folder below `inputs/<download.inputs>`, which DVC tracks."""

    kind: Literal["folder"]
    path: RelativePath


class BucketModel(Section):
    """A model in Hugging Face layout in a bucket, pinned by its sha256."""

    kind: Literal["bucket"]
    uri: BucketUri
    sha256: Sha256  # of the output of `sha256sum FILES | LC_ALL=C sort` over the files that are used


class Schedule(Section):
    """One training run with linear warm-up and cosine decay to zero."""

    steps: Count
    batch_size: Positive
    learning_rate: Rate
    warmup_steps: Count
    weight_decay: Weight


class Cooccurrence(Section):
    """Initialise token embeddings from the co-occurrence of tokens in the captions of a row."""

    deviation: Rate  # standard deviation of the embeddings; random ones have 0.02


class MadeTransformer(Section):
    """What the models that are made on the spot have in common."""

    kind: Literal["made"]
    vocabulary_size: Positive = 512
    width: Positive = 128
    heads: Positive = 4

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class MadeLlm(MadeTransformer):
    """A small Llama and its BPE vocabulary, trained on text; 0 steps leave it random."""

    texts: list[TextSource] = Field(min_length=1)
    layers: Positive = 3
    feed_forward: Positive = 352
    max_tokens: Positive = 192
    cooccurrence: Cooccurrence | None = None  # null: random
    training: Schedule  # a batch holds blocks of max_tokens tokens


class MadeClip(MadeTransformer):
    """A small CLIP with a convolutional stem; 0 steps leave it random."""

    texts: list[TextSource] = Field(min_length=1)  # for the vocabulary
    image_size: Positive = 64
    stem_channels: list[Positive] = Field(
        default_factory=lambda: [16, 32, 64, 128], min_length=1
    )  # one 3x3 stride-2 convolution each
    pooling: Literal["class", "mean"] = (
        "class"  # of the vision tower: the class token, or the mean over its cells
    )
    vision_layers: Positive = 2
    text_layers: Positive = 2
    projection_dim: Positive = 128
    context_tokens: Positive = 32
    scenes: Scenes | None = None  # training data; null: not trained
    caption_mix: dict[Literal["alt", "short", "dense", "short_de", "dense_de"], Weight] = Field(
        default_factory=dict
    )
    training: Schedule

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.scenes is None:
            if self.training.steps:
                raise ValueError(
                    "training.steps needs scenes; expected scenes, or 0 steps for random weights"
                )
            return self
        if self.scenes.image_size != self.image_size:
            raise ValueError(
                f"scenes.image_size {self.scenes.image_size} is not image_size {self.image_size}"
            )
        if sum(self.caption_mix.values()) <= 0:
            raise ValueError("caption_mix gives no column a weight")
        _check_scenes(self.scenes)
        return self


class MadeCaptioner(MadeTransformer):
    """A small captioner trained on labelled scenes."""

    scenes: Scenes
    stem_channels: list[Positive] = Field(default_factory=lambda: [24, 48, 96, 128], min_length=1)
    layers: Positive = 2
    max_tokens: Positive = 128
    attribute_loss_weight: Weight = 1.0
    training: Schedule

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _check_scenes(self.scenes)
        return self


Fetched = HubModel | FolderModel | BucketModel
Llm = Annotated[Fetched | MadeLlm, Field(discriminator="kind")]
Clip = Annotated[Fetched | MadeClip, Field(discriminator="kind")]


class NamedModel(Section):
    """A pretrained model, and the name by which other sections refer to it."""

    name: Name
    source: Annotated[Fetched, Field(discriminator="kind")]


class BaseModels(Section):
    """Params of base_models."""

    llm: Llm
    clip: Clip
    captioner: MadeCaptioner | None = None
    vision_language: list[NamedModel] = Field(default_factory=list)  # captioners
    text_encoders: list[NamedModel] = Field(default_factory=list)  # in sentence-transformers layout
    checkpoint_steps: Positive = 100  # steps between checkpoints

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for group in ("vision_language", "text_encoders"):
            names = [model.name for model in getattr(self, group)]
            if len(set(names)) < len(names):
                raise ValueError(f"{group} has two models of one name ({', '.join(names)})")
        return self


def _check_scenes(scenes: Scenes) -> None:
    """Check that scenes have train and no test counts: only evaluate uses test scenes."""
    if not scenes.counts.train or scenes.counts.test:
        raise ValueError("scenes.counts: expected at least one train scene and no test scene")
