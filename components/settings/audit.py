"""Params of audit."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from components.settings.section import Count, Name, Positive, RelativePath, Section, Share, Weight
from components.settings.sources import Split

Cosine = Annotated[float, Field(ge=-1, le=1)]
REASONS = ("leaked", "similarity", "no_similarity", "near_image", "near_caption")  # heads have others


class Head(Section):
    """A linear head on image embeddings, for safety or aesthetics; its name is the reason it drops for."""

    name: Name
    path: RelativePath  # safetensors with `weight` and `bias`, below inputs/<download.inputs>
    keeps: Literal["at_least", "at_most"]
    limit: float  # of weight x embedding + bias
    splits: list[Split] = Field(min_length=1)


class SimilarityFilter(Section):
    """Keep train images that are like their captions under the base CLIP; either a limit or a share."""

    columns: list[Name] = Field(min_length=1)  # an image counts with its best caption of these
    min_similarity: Cosine | None = None
    best_share: Annotated[float, Field(gt=0, le=1)] | None = None  # of the images it looks at, as in DataComp

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.min_similarity is None) == (self.best_share is None):
            raise ValueError("give either min_similarity or best_share, the other one null")
        return self


class NearImageFilter(Section):
    """Of train images whose embeddings are nearly the same, keep the first by key."""

    min_cosine: Annotated[float, Field(gt=0, le=1)]
    max_rows: Positive  # images; each is compared with all others, and more of them are refused


class NearCaptionFilter(NearImageFilter):
    """Of train images whose captions say nearly the same to an earlier run's encoder, keep the first by key.

    An image that the earlier run had no caption of stays.
    """

    embeddings: RelativePath  # artifacts/embed_captions/<encoder>, put with all of it below inputs/<inputs>
    column: Name  # the first caption of it counts


class Curation(Section):
    """What is dropped besides leaks, in this order; all but captions need recaption.scores."""

    heads: list[Head] = Field(default_factory=list)
    similarity: SimilarityFilter | None = None
    near_images: NearImageFilter | None = None
    near_captions: NearCaptionFilter | None = None

    @field_validator("heads")
    @classmethod
    def _names_differ(cls, heads: list[Head]) -> list[Head]:
        names = [head.name for head in heads]
        if len(set(names)) < len(names) or set(names) & set(REASONS):
            raise ValueError(f"heads are named {', '.join(names)}; expected names that differ, none a reason")
        return heads

    @property
    def is_asked(self) -> bool:
        """Whether anything is to be dropped."""
        return bool(self.needs_scores or self.near_captions)

    @property
    def needs_scores(self) -> bool:
        """Whether it looks at what recaption scored."""
        return bool(self.heads or self.similarity or self.near_images)


class Reference(Section):
    """An earlier run that the train rows must resemble."""

    summary: RelativePath  # its artifacts/audit/summary.json, put below inputs/<download.inputs>
    features: list[str] = Field(min_length=1)  # as summary.json names them: width, words of alt (en), ...
    max_psi: Weight  # population stability index; 0.1 is little, 0.25 much


class Audit(Section):
    """Params of audit: the limits of the gates, each a share of the rows the gate looks at."""

    min_rows: Positive  # per split that has rows; a share of fewer rows is unknown
    unknown_passes: bool = False  # whether a gate that has too little data lets the run go on
    min_success_share: Share  # of the images download tried to get
    min_host_rows: Positive = 100  # a host with fewer is not looked at
    min_host_success_share: Share | None = None  # of the worst host
    max_exact_duplicate_share: Share = 0.05  # images whose bytes came before in the same split
    max_near_duplicate_share: Share = 0.05  # train images that look like an earlier one
    near_duplicate_bits: Count = 10  # apart, at most, of a 64-bit difference hash
    near_duplicate_difference: Weight = 6.0  # grey levels between 16 x 16 colour thumbnails, root mean square
    max_leaked_share: Share = (
        0.05  # of the test images that also stand in train or validation, exactly or nearly
    )
    drop_leaked: bool = (
        True  # take the train and validation images that are also test images out of the kept keys
    )
    max_repeated_caption_share: Share  # of a column's train captions whose text came before; the worst column
    max_caption_overlap_share: Share | None  # of a column's test captions that train has too; the worst one
    reference: Reference | None = None
    curation: Curation = Field(default_factory=Curation)
    report_rows: Positive = 100_000  # rows, at most, that the report's figures are drawn from
    gallery_rows: Count = 24  # train images, chosen by key, that the gallery shows with old and new captions
    samples: Positive = 5  # failing rows listed beside a gate
