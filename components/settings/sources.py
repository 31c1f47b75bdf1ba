"""Params of data sources: url lists, folders, annotation files, shards, text tables, procedural scenes.

Paths are relative to `inputs/<download.inputs>`. A `path` names one file. If a source may have many files,
its path may also be a folder or a pattern (`laion/part-*.parquet`); files are read in name order.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.settings.section import (
    Count,
    Language,
    Name,
    Positive,
    Rate,
    RelativePath,
    Section,
    Sha256,
    ShardsPath,
)

Split = Literal["train", "validation", "test"]
Kind = Literal["short", "dense"]  # kind of caption, for the gates of recaption
MEMBER_COLUMN = r"^(txt|json\..+)$"


class CaptionColumn(Section):
    """A column of the input that holds one caption or a list of captions.

    `recaption.gates` filters captions that a model wrote, like those that recaption writes itself, and the
    captions that a `columns` captioner takes from them. A dump leaves out `by_model` and `kind` if they are
    not set, so results made from a column without them stay valid.
    """

    column: str  # in the input
    name: Name  # in the pipeline
    language: Language
    by_model: bool = Field(default=False, exclude_if=operator.not_)  # false: people wrote the captions
    kind: Kind | None = Field(
        default=None, exclude_if=operator.not_
    )  # kind of a model's captions; null: neither


class Captioned(Section):
    """Params of every source whose captions come from files."""

    name: Name
    path: RelativePath
    captions: list[CaptionColumn] = Field(min_length=1)
    limit: Positive | None = None  # use only the first rows

    @model_validator(mode="after")
    def _one_name_each(self) -> Self:
        names = [caption.name for caption in self.captions]
        if len(set(names)) != len(names):
            raise ValueError(f"source {self.name}: two caption columns have one name; give each its own")
        return self


class SplitByColumn(Captioned):
    """A source whose split is a column, or one split for all rows."""

    split_column: str | None = None  # holds train, validation or test
    split: Split | None = None  # for all rows, if there is no split column

    @model_validator(mode="after")
    def _one_split(self) -> Self:
        if (self.split is None) == (self.split_column is None):
            raise ValueError(f"source {self.name}: give either split or split_column, the other one null")
        return self


class Pinned(Section):
    """A source whose files may be pinned by sha256."""

    sha256: Sha256 | None = None  # of the file; of many files, of the output of `sha256sum` for them


class Weighted(Section):
    """A source of images that may be mixed with others."""

    weight: Rate | None = (
        None  # share of each stretch of rows, relative to the other weights; null: read as a whole
    )


class Table(SplitByColumn, Pinned):
    """Params of every source read from tables: parquet, csv, tsv, csv.gz or tsv.gz, one file or many."""

    columns: list[str] | None = None  # column names of a csv or tsv without a header line
    key_column: str | None = None  # None: keys are made from the url, image name or captions

    @model_validator(mode="after")
    def _columns_are_each_named_once(self) -> Self:
        if self.columns is not None and len(set(self.columns)) != len(self.columns):
            raise ValueError(f"source {self.name}: columns names one twice; give each column its own name")
        return self


class UrlList(Table, Weighted):
    """Images fetched over HTTP."""

    kind: Literal["url_list"]
    url_column: str
    sha256_column: str | None = None  # of the image's bytes; a row with other bytes is rejected


class Folder(Table, Weighted):
    """Images in a folder, with a captions table."""

    kind: Literal["folder"]
    images: RelativePath | None = None  # folder of the images; null: names are paths from inputs/<name>
    image_column: str  # file name below `images`, or path from inputs/<name> if all begin with `images`


class TextTable(Table):
    """Captions without images, to train language models."""

    kind: Literal["text_table"]

    @model_validator(mode="after")
    def _nothing_is_judged(self) -> Self:
        if marked := [caption.name for caption in self.captions if caption.by_model or caption.kind]:
            raise ValueError(
                f"source {self.name}: by_model and kind of {', '.join(marked)} are for recaption.gates, "
                "which see captions of images only; remove them, and filter the table before"
            )
        return self


class Coco(Captioned, Pinned, Weighted):
    """A COCO captions file: `images` and `annotations`; caption columns are fields of an annotation."""

    kind: Literal["coco"]
    split: Split
    images: RelativePath | None = None  # folder of each `file_name`, as in a folder source
    url_field: str | None = None  # coco_url or flickr_url of an image, if images are not local

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.images is not None and self.url_field is not None:
            raise ValueError(
                f"source {self.name}: give either images or url_field, the other one null; both are null "
                "where names are paths from inputs/<name>"
            )
        return self


class Karpathy(Captioned, Pinned, Weighted):
    """A dataset file of Karpathy's splits; caption columns are fields of a sentence (`raw`)."""

    kind: Literal["karpathy"]
    splits: dict[str, Split | None]  # maps train, restval, val and test to our splits; null leaves one out
    images: RelativePath | None = None  # folder of each `filepath`/`filename`, as in a folder source
    url_prefix: str | None = None  # prefix of the image names, if images are not local

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.images is not None and self.url_prefix is not None:
            raise ValueError(
                f"source {self.name}: give either images or url_prefix, the other one null; both are null "
                "where names are paths from inputs/<name>"
            )
        return self


class Members(SplitByColumn, Weighted):
    """Images with their captions beside them in .txt and .json files of the same name.

    The column `txt` is the .txt file, `json.caption` the field caption of the .json file.
    """

    txt_lines: bool = False  # each line of a .txt file is a caption; false: the whole file is one

    @model_validator(mode="after")
    def _columns_are_of_members(self) -> Self:
        for column in [*(caption.column for caption in self.captions), self.split_column or "txt"]:
            if not re.match(MEMBER_COLUMN, column):
                raise ValueError(f"source {self.name}: column {column} is neither txt nor json.FIELD")
        return self


class Sidecars(Members):
    """A folder of images with their captions beside them, at any depth."""

    kind: Literal["sidecars"]


class Shards(Members, Pinned):
    """Existing WebDataset shards, as img2dataset writes them.

    They may be on a web server or in a bucket, given as a range of numbers or, in a bucket only, as a
    pattern:
     `https://host/cc12m/{00000..01242}.tar`, `s3://bucket/cc12m/*.tar`.
    """

    kind: Literal["shards"]
    path: ShardsPath

    @property
    def is_far(self) -> bool:
        """Whether the shards are remote and must be downloaded first."""
        return "://" in self.path

    @property
    def location(self) -> str:
        """The address or folder of the shards."""
        return self.path.rpartition("/")[0]


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
    """Captions of procedural scenes, without images."""

    kind: Literal["scene_texts"]
    name: Name
    counts: SplitCounts


Source = Annotated[
    UrlList | Folder | Coco | Karpathy | Sidecars | Shards | TextTable | Scenes | SceneTexts,
    Field(discriminator="kind"),
]
TextSource = Annotated[TextTable | SceneTexts, Field(discriminator="kind")]


def caption_columns(sources: Iterable[Source]) -> dict[str, CaptionColumn]:
    """Return the caption columns of images by their name in the pipeline.

    Raises:
        ValueError: two sources have a column of the same name with different `by_model` or `kind`.
    """
    columns: dict[str, CaptionColumn] = {}
    for source in sources:
        for column in source.captions if isinstance(source, Captioned) else ():
            first = columns.setdefault(column.name, column)
            if (first.by_model, first.kind) != (column.by_model, column.kind):
                raise ValueError(
                    f"source {source.name}: by_model and kind of captions {column.name} are "
                    f"{_marks(column)}, and {_marks(first)} in another source; expected the same: correct "
                    "one, or give it a name of its own"
                )
    return columns


def _marks(column: CaptionColumn) -> str:
    return f"{str(column.by_model).lower()} and {column.kind or 'null'}"
