"""Params of recaption."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.settings.requests import HttpRequests
from components.settings.section import (
    Count,
    Language,
    Name,
    Positive,
    Section,
    Share,
    Weight,
    twice_in,
)
from components.settings.sources import Kind, Split


class ModelCaptioner(Section):
    """The captioner that base_models trains; writes columns `<name>_<kind>`."""

    kind: Literal["model"]
    name: Name
    writes: list[Kind] = Field(min_length=1)
    splits: list[Split] = Field(min_length=1)
    batch_size: Positive

    def written(self) -> list[tuple[str, list[Split]]]:
        """Return each column that the captioner writes, with its splits."""
        return [(f"{self.name}_{kind}", self.splits) for kind in self.writes]


class Take(Section):
    """A new column made from the captions of an existing column."""

    source: Name
    column: Name
    take: Literal["all", "first", "one_by_key", "others_joined", "rest_joined"]
    splits: list[Split] = Field(min_length=1)


class ColumnsCaptioner(Section):
    """New columns made from existing caption columns."""

    kind: Literal["columns"]
    name: Name
    columns: list[Take] = Field(min_length=1)

    def written(self) -> list[tuple[str, list[Split]]]:
        """Return each column that the captioner writes, with its splits."""
        return [(take.column, take.splits) for take in self.columns]

    @model_validator(mode="after")
    def _writes_once(self) -> Self:
        written = [(take.column, split) for take in self.columns for split in take.splits]
        if twice := twice_in(sorted(written)):
            raise ValueError(f"column {twice[0]} of {twice[1]} is written twice")
        return self


class PromptedCaptioner(Section):
    """A model that captions an image by a prompt; writes columns `<name>_<kind>`.

    Prompts are the same for every image and hold nothing from the source.
    """

    name: Name
    prompts: dict[Kind, Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    max_new_tokens: dict[Kind, Positive]  # a longer caption is rejected as truncated
    temperature: Weight = 0.0  # 0 takes the likeliest token; above 0, tokens are drawn by seed and key
    language: Language = "en"  # of the captions that the prompts ask for
    splits: list[Split] = Field(min_length=1)

    def written(self) -> list[tuple[str, list[Split]]]:
        """Return each column that the captioner writes, with its splits."""
        return [(f"{self.name}_{kind}", self.splits) for kind in self.prompts]

    @model_validator(mode="after")
    def _lengths_for_all(self) -> Self:
        if set(self.max_new_tokens) != set(self.prompts):
            raise ValueError(
                f"max_new_tokens is for {', '.join(sorted(self.max_new_tokens)) or 'nothing'}, prompts for "
                f"{', '.join(sorted(self.prompts))}; expected the same"
            )
        return self


class VisionLanguageCaptioner(PromptedCaptioner):
    """A model of `base_models.vision_language`, run by transformers."""

    kind: Literal["vision_language"]
    model: Name
    batch_tokens: Positive  # of image, prompt, caption and padding
    precision: Literal["fp32", "bf16"]


class VllmCaptioner(PromptedCaptioner):
    """A model of `base_models.vision_language`, run by vLLM (extra `vllm`)."""

    kind: Literal["vllm"]
    model: Name
    context_tokens: Positive  # of image, prompt and caption
    precision: Literal["fp32", "bf16"]


class Requests(HttpRequests):
    """HTTP requests for captions; changes no caption that arrives."""

    max_failures_in_a_row: Positive = 20  # then the stage stops, instead of rejecting row after row
    retry_rounds: Count = 0  # raise it to retry captions with a transient failure; all others stay


class EndpointCaptioner(PromptedCaptioner):
    """A model behind an OpenAI-compatible endpoint, which LLM2CLIP_CAPTION_ENDPOINT names."""

    kind: Literal["endpoint"]
    model: str = Field(min_length=1)  # the name that the endpoint uses
    revision: str  # any text; a new value writes all captions again, for other weights of the same name
    requests: Requests = Field(default_factory=Requests)


Captioner = Annotated[
    ModelCaptioner | ColumnsCaptioner | VisionLanguageCaptioner | VllmCaptioner | EndpointCaptioner,
    Field(discriminator="kind"),
]


class CaptionGates(Section):
    """Filters that reject captions. A change here filters again but writes no caption again."""

    max_characters: Positive = 4000
    max_repeats: Annotated[int, Field(ge=2)] = (
        3  # greatest number of times in a row that a word or phrase may occur
    )
    max_repeated_share: Share = (
        0.5  # greatest share of a caption's three-word runs that occurred in it before
    )
    min_leaked_words: Positive = 6  # this many words of the prompt in a row, or all of it, are a leak
    whole_sentences: list[Kind] = Field(default_factory=list)  # kinds that must end like a sentence
    min_script_share: Share = 0.5  # of a caption's letters that are in its language's script
    max_images_per_text: dict[Kind, Positive] = Field(
        default_factory=dict
    )  # if more images have the same text, all lose it; other kinds have no limit

    def reasons(self, kind: Kind | None, *, is_answer: bool) -> list[str]:
        """Return the reasons for which a caption of a column may be rejected.

        Args:
            kind: Kind of the column's captions.
            is_answer: Whether a prompted model wrote the captions, which may refuse to answer.
        """
        answer_reasons = ["refusal"] if is_answer else []
        kind_reasons = ["truncated"] if kind in self.whole_sentences else []
        kind_reasons += ["same_text"] if kind in self.max_images_per_text else []
        return [
            "too_long", "control_characters", "empty", "prompt_leak", "repeated", "wrong_language",
            *answer_reasons, *kind_reasons,
        ]  # fmt: skip


class Scores(Section):
    """Image-text similarity of every caption under the base CLIP, and agreement between captioners."""

    columns: list[Name] | None = None  # columns whose captions get a similarity; null: all
    batch_size: Positive = 256  # images or texts per batch
    precision: Literal["fp32", "bf16"] = "fp32"


class Recaption(Section):
    """Params of recaption."""

    captioners: list[Captioner] = Field(default_factory=list)
    gates: CaptionGates = Field(default_factory=CaptionGates)
    scores: Scores | None = None  # read by audit's curation: similarity, near_images and heads
    max_reject_share: Share = 0.05

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [captioner.name for captioner in self.captioners]
        if len(set(names)) < len(names) or "source" in names:
            raise ValueError(
                f"captioners are named {', '.join(names)}; expected other names, and none `source`"
            )
        return self
