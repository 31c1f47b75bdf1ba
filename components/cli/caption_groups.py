"""Predict the caption columns of rows: those of the sources and those that captioners add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from components.planning.images import possible_splits
from components.settings.recaption import Captioner, ColumnsCaptioner, PromptedCaptioner, Recaption
from components.settings.sources import Captioned, Scenes, SceneTexts, Source, TextTable
from components.sources.rows import Row
from components.sources.scenes.scene import COLUMN_LANGUAGES

SPLITS = ("train", "validation", "test")
MODEL_LANGUAGE = "en"  # written by the captioner that base_models makes
KEEPS_ALL = "all"  # the `take` of a columns captioner that may give an image several captions


@dataclass(frozen=True)
class Column:
    """One caption column of a group.

    Attributes:
        languages: Languages of its captions.
        is_list: True if a row may have two captions of it.
        is_given: True if a source gives it, False if a captioner writes it.
    """

    languages: frozenset[str]
    is_list: bool
    is_given: bool = True


@dataclass(frozen=True)
class Group:
    """Rows of one source and split that may have the same caption columns.

    Attributes:
        split: Split of the rows.
        has_images: True if the rows are images.
        columns: Caption columns by name.
        rows: Upper bound of the number of rows; None if unknown.
        has_labels: True if the rows have the labels of scenes.
        is_sure: True if there is such a row. False if a split column decides, which has not been read.
    """

    split: str
    has_images: bool
    columns: dict[str, Column]
    rows: int | None
    has_labels: bool = False
    is_sure: bool = True

    def has_pair(self, first: str, second: str) -> bool:
        """Return True if a row may have a caption of each column, or two captions if both are one column."""
        if first == second:
            return first in self.columns and self.columns[first].is_list
        return first in self.columns and second in self.columns


def groups_of_rows(source: Source, rows: Iterable[Row]) -> list[Group]:
    """Return the groups of a source whose rows are all known."""
    languages = {(caption.column, caption.language) for row in rows for caption in row.captions}
    groups: dict[tuple[str, tuple[tuple[str, bool], ...]], int] = {}
    for row in rows:
        counts = Counter(caption.column for caption in row.captions)
        kind = (row.split, tuple(sorted((name, count > 1) for name, count in counts.items())))
        groups[kind] = groups.get(kind, 0) + 1
    return [
        Group(
            split,
            not isinstance(source, TextTable),
            {
                name: Column(frozenset(language for column, language in languages if column == name), is_list)
                for name, is_list in columns
            },
            count,
        )
        for (split, columns), count in groups.items()
    ]


def possible_groups(source: Source, rows: int | None) -> list[Group]:
    """Return the groups of a source as params describe it, without reading its rows.

    Args:
        source: From params.
        rows: Upper bound of its number of rows; None if unknown.
    """
    if isinstance(source, Captioned):
        columns: dict[str, Column] = {
            caption.name: Column(frozenset({caption.language}), is_list=True) for caption in source.captions
        }
        has_images = not isinstance(source, TextTable)
        splits = sorted(possible_splits(source) or SPLITS)
        is_sure = len(splits) == 1
        return [Group(split, has_images, columns, rows, is_sure=is_sure) for split in splits]
    counts = source.counts.model_dump()
    return [_scene_group(source, split, count) for split, count in counts.items() if count]


def with_captioners(groups: Iterable[Group], section: Recaption) -> list[Group]:
    """Return the groups with the columns that captioners write for images."""
    extended = list(groups)
    for captioner in section.captioners:
        extended = [
            replace(group, columns=group.columns | dict(_written_columns(captioner, group)))
            if group.has_images
            else group
            for group in extended
        ]
    return extended


def _scene_group(source: Scenes | SceneTexts, split: str, count: int) -> Group:
    has_images = isinstance(source, Scenes)
    names = ["alt"] if has_images and split == "train" else list(COLUMN_LANGUAGES)
    columns = {name: Column(frozenset({COLUMN_LANGUAGES[name]}), is_list=True) for name in names}
    return Group(split, has_images, columns, count, has_labels=has_images)


def _written_columns(captioner: Captioner, group: Group) -> Iterator[tuple[str, Column]]:
    if isinstance(captioner, ColumnsCaptioner):
        for rule in captioner.columns:
            source = group.columns.get(rule.source)
            if group.split in rule.splits and source and source.is_given:
                is_list = source.is_list and rule.take == KEEPS_ALL
                yield rule.column, Column(source.languages, is_list, is_given=False)
        return
    language = captioner.language if isinstance(captioner, PromptedCaptioner) else MODEL_LANGUAGE
    for name, splits in captioner.written():
        if group.split in splits:
            yield name, Column(frozenset({language}), is_list=False, is_given=False)
