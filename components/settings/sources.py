"""Where rows come from: url lists, folders, annotation files, shards, tables of text, procedural scenes.

Paths are relative to `inputs/<download.inputs>`. A `path` names one file; where a source may be many files,
it may also name a folder or hold a pattern (`laion/part-*.parquet`), read in the order of names.
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
Kind = Literal["short", "dense"]  # of caption, for the gates of recaption
MEMBER_COLUMN = r"^(txt|json\..+)$"


class CaptionColumn(Section):
    """A column of the input that holds one caption or a list of captions.

    Captions that a model wrote are judged by `recaption.gates`, as those that recaption writes itself, and so
    is what a `columns` captioner takes from them. Both marks are left out of a dump where they are not set:
    what was made from a column without them is not made again.
    """

    column: str  # in the input
    name: Name  # in the pipeline
    language: Language
    by_model: bool = Field(default=False, exclude_if=operator.not_)  # false: people wrote them
    kind: Kind | None = Field(default=None, exclude_if=operator.not_)  # of what a model wrote; null: neither


class Captioned(Section):
    """What every source shares whose captions come from files."""

    name: Name
    path: RelativePath
    captions: list[CaptionColumn] = Field(min_length=1)
    limit: Positive | None = None  # rows taken from the head

    @model_validator(mode="after")
    def _one_name_each(self) -> Self:
        names = [caption.name for caption in self.captions]
        if len(set(names)) != len(names):
            raise ValueError(f"source {self.name}: two caption columns have one name; give each its own")
        return self


class SplitByColumn(Captioned):
    """A source whose rows say themselves of which split they are, or are all of one."""

    split_column: str | None = None  # holds train, validation or test
    split: Split | None = None  # for all rows, where there is no split column

    @model_validator(mode="after")
    def _one_split(self) -> Self:
        if (self.split is None) == (self.split_column is None):
            raise ValueError(f"source {self.name}: give either split or split_column, the other one null")
        return self


class Pinned(Section):
    """A source that may be held to the bytes it had."""

    sha256: Sha256 | None = None  # of the file; of many files that of what `sha256sum` prints of them


class Weighted(Section):
    """A source of images that may be mixed with others."""

    weight: Rate | None = (
        None  # its share of each stretch of rows, beside the other weights; null: read as a whole
    )


class Table(SplitByColumn, Pinned):
    """What every source read from tables shares: parquet, csv, tsv, csv.gz or tsv.gz, one file or many."""

    columns: list[str] | None = None  # names of the columns of a csv or tsv without a header line
    key_column: str | None = None  # None: keys are made from the row number

    @model_validator(mode="after")
    def _columns_are_each_named_once(self) -> Self:
        if self.columns is not None and len(set(self.columns)) != len(self.columns):
            raise ValueError(f"source {self.name}: columns names one twice; give each column its own name")
        return self


class UrlList(Table, Weighted):
    """Images fetched over HTTP."""

    kind: Literal["url_list"]
    url_column: str
    sha256_column: str | None = None  # of the image's bytes; a row whose bytes have another one is rejected


class Folder(Table, Weighted):
    """Images that lie in a folder beside a captions table."""

    kind: Literal["folder"]
    images: RelativePath | None = (
        None  # the folder that they lie in; null: names are paths from inputs/<name>
    )
    image_column: str  # file name below `images`; where all begin with it, paths from inputs/<name> will do


class TextTable(Table):
    """Captions without images, for the language side."""

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
    """A captions file of COCO: `images` and `annotations`; the columns are fields of an annotation."""

    kind: Literal["coco"]
    split: Split
    images: RelativePath | None = None  # the folder that holds each `file_name`, as of a folder source
    url_field: str | None = None  # of an image, coco_url or flickr_url, where they are not here

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.images is not None and self.url_field is not None:
            raise ValueError(
                f"source {self.name}: give either images or url_field, the other one null; both are null "
                "where names are paths from inputs/<name>"
            )
        return self


class Karpathy(Captioned, Pinned, Weighted):
    """A dataset file of Karpathy's splits; the columns are fields of a sentence (`raw`)."""

    kind: Literal["karpathy"]
    splits: dict[str, Split | None]  # what its train, restval, val and test mean here; null leaves one out
    images: RelativePath | None = (
        None  # the folder that holds each `filepath`/`filename`, as of a folder source
    )
    url_prefix: str | None = None  # what to put before them, where they are not here

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.images is not None and self.url_prefix is not None:
            raise ValueError(
                f"source {self.name}: give either images or url_prefix, the other one null; both are null "
                "where names are paths from inputs/<name>"
            )
        return self


class Members(SplitByColumn, Weighted):
    """Images whose captions lie beside them in .txt and .json files of the same name.

    The column `txt` is the .txt file, `json.caption` the field caption of the .json file.
    """

    txt_lines: bool = False  # each line of a .txt file is a caption; false: the whole file is one

    @model_validator(mode="after")
    def _columns_are_of_members(self) -> Self:
        for column in [*(one.column for one in self.captions), self.split_column or "txt"]:
            if not re.match(MEMBER_COLUMN, column):
                raise ValueError(f"source {self.name}: column {column} is neither txt nor json.FIELD")
        return self


class Sidecars(Members):
    """A folder of images with their captions beside them, at any depth."""

    kind: Literal["sidecars"]


class Shards(Members, Pinned):
    """WebDataset shards that are there already, as img2dataset writes them.

    They may lie on a web server or in a bucket, numbered from one shard to another or, in a bucket only, by a
    pattern: `https://host/cc12m/{00000..01242}.tar`, `s3://bucket/cc12m/*.tar`.
    """

    kind: Literal["shards"]
    path: ShardsPath

    @property
    def is_far(self) -> bool:
        """Whether they must be brought here first."""
        return "://" in self.path

    @property
    def place(self) -> str:
        """The address, or the folder, that they lie in."""
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
    """Captions of procedural scenes that are never drawn."""

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
        ValueError: two sources say of one name that a model wrote it and that people did, or another kind.
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
