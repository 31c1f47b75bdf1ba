"""Where rows come from: url lists, folders, tables of text, and the procedural scenes."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.settings.section import Count, Language, Name, Positive, RelativePath, Section, Sha256

Split = Literal["train", "validation", "test"]


class CaptionColumn(Section):
    """A column of the input that holds one caption or a list of captions."""

    column: str  # in the input
    name: Name  # in the pipeline
    language: Language


class Table(Section):
    """What every source read from a table shares. Paths are relative to `inputs/<download.inputs>`."""

    name: Name
    path: RelativePath  # parquet, csv or tsv
    sha256: Sha256 | None  # refuse any other bytes
    key_column: str | None  # None: keys are made from the row number
    split_column: str | None  # holds train, validation or test
    split: Split | None  # for all rows, where there is no split column
    captions: list[CaptionColumn] = Field(min_length=1)
    limit: Positive | None  # rows taken from the head

    @model_validator(mode="after")
    def _one_split_and_one_column_each(self) -> Self:
        if (self.split is None) == (self.split_column is None):
            raise ValueError(f"source {self.name}: give either split or split_column, the other one null")
        names = [caption.name for caption in self.captions]
        if len(set(names)) != len(names):
            raise ValueError(f"source {self.name}: two caption columns have one name; give each its own")
        return self


class UrlList(Table):
    """Images fetched over HTTP."""

    kind: Literal["url_list"]
    url_column: str


class Folder(Table):
    """Images that lie in a folder beside a captions table."""

    kind: Literal["folder"]
    images: RelativePath
    image_column: str  # file name below `images`


class TextTable(Table):
    """Captions without images, for the language side."""

    kind: Literal["text_table"]


class SplitCounts(Section):
    """Rows per split."""

    train: Count
    validation: Count
    test: Count


class Scenes(Section):
    """Procedural scenes with images."""

    kind: Literal["scenes"]
    name: Name
    counts: SplitCounts
    image_size: Positive  # pixels


class SceneTexts(Section):
    """Captions of procedural scenes that are never drawn."""

    kind: Literal["scene_texts"]
    name: Name
    counts: SplitCounts


Source = Annotated[UrlList | Folder | TextTable | Scenes | SceneTexts, Field(discriminator="kind")]
TextSource = Annotated[TextTable | SceneTexts, Field(discriminator="kind")]
