"""Params of audit."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from components.settings.section import Count, Name, Positive, RelativePath, Section, Share, Weight
from components.settings.sources import Split

Cosine = Annotated[float, Field(ge=-1, le=1)]
REASONS = ("leaked", "similarity", "no_similarity", "near_image", "near_caption")  # no head may use these


class Head(Section):
    """A linear head on image embeddings, for safety or aesthetics; its name is the drop reason."""

    name: Name
    path: RelativePath  # safetensors with `weight` and `bias`, below inputs/<download.inputs>
    keeps: Literal["at_least", "at_most"]
    limit: float  # on weight x embedding + bias
    splits: list[Split] = Field(min_length=1)


class SimilarityFilter(Section):
    """Keep train images that match their captions under the base CLIP, by a limit or by a share."""

    columns: list[Name] = Field(min_length=1)  # an image has the similarity of its best caption in these
    min_similarity: Cosine | None = None
    best_share: Annotated[float, Field(gt=0, le=1)] | None = None  # of the images it filters, as in DataComp

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.min_similarity is None) == (self.best_share is None):
            raise ValueError("give either min_similarity or best_share, the other one null")
        return self


class NearImageFilter(Section):
    """Of train images whose embeddings are nearly the same, keep the first by key."""

    min_cosine: Annotated[float, Field(gt=0, le=1)]
    max_rows: Positive  # images; each is compared with all others, so more of them are refused


class NearCaptionFilter(NearImageFilter):
    """Of train images whose captions have nearly the same embedding in an earlier run, keep the first by key.

    An image without a caption in the earlier run is kept.
    """

    embeddings: RelativePath  # a whole artifacts/embed_captions/<encoder>, copied below inputs/<inputs>
    column: Name  # its first caption is compared


class Curation(Section):
    """Filters besides leaks, in this order; all except near_captions need recaption.scores."""

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
        """Whether any filter is set."""
        return bool(self.needs_scores or self.near_captions)

    @property
    def needs_scores(self) -> bool:
        """Whether a filter reads the scores of recaption."""
        return bool(self.heads or self.similarity or self.near_images)


class Reference(Section):
    """An earlier run that the train rows must resemble."""

    summary: RelativePath  # its artifacts/audit/summary.json, copied below inputs/<download.inputs>
    features: list[str] = Field(min_length=1)  # as summary.json names them: width, words of alt (en), ...
    max_psi: Weight  # population stability index; 0.1 is small, 0.25 is large


class Audit(Section):
    """Params of audit: the limits of the gates, each a share of the rows that the gate checks."""

    min_rows: Positive  # per split that has rows; with fewer rows, a share is unknown
    unknown_passes: bool = False  # whether a gate with too little data passes
    min_success_share: Share  # of the images that download tried to fetch
    min_host_rows: Positive = 100  # hosts with fewer rows are not checked
    min_host_success_share: Share | None = None  # of the worst host
    max_exact_duplicate_share: Share = 0.05  # images whose bytes occurred before in the same split
    max_near_duplicate_share: Share = 0.05  # train images that look like an earlier image
    near_duplicate_bits: Count = 10  # greatest distance in bits between two 64-bit difference hashes
    near_duplicate_difference: Weight = (
        6.0  # greatest root mean square difference of 16 x 16 colour thumbnails, grey levels
    )
    max_leaked_share: Share = (
        0.05  # of the test images that are also in train or validation, exactly or nearly
    )
    drop_leaked: bool = True  # drop train and validation images that are also test images
    max_repeated_caption_share: (
        Share  # of a column's train captions whose text occurred before; the worst column
    )
    max_caption_overlap_share: (
        Share | None
    )  # of a column's test captions that are also in train; the worst column
    reference: Reference | None = None
    curation: Curation = Field(default_factory=Curation)
    report_rows: Positive = 100_000  # greatest number of rows that the report's figures are drawn from
    gallery_rows: Count = 24  # train images, chosen by key, in the gallery with old and new captions
    samples: Positive = 5  # failing rows listed beside a gate
