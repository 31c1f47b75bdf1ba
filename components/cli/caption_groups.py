"""Which caption columns rows will have, followed from the sources through recaption's captioners."""

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
MODEL_LANGUAGE = "en"  # of the captioner that base_models makes
KEEPS_ALL = "all"  # of what a columns captioner takes, the one that may give an image several captions


@dataclass(frozen=True)
class Column:
    """One caption column of a group.

    Attributes:
        languages: Of its captions.
        is_list: Whether a row may have two captions of it.
        is_given: Whether it came with the rows.
    """

    languages: frozenset[str]
    is_list: bool
    is_given: bool = True


@dataclass(frozen=True)
class Group:
    """Rows of one source and split, all of which may have the same caption columns.

    Attributes:
        split: Of the rows.
        has_images: Whether they are images.
        columns: By name.
        rows: How many there are, at most; None where nobody knows.
        has_labels: Whether they have the labels of scenes.
        is_sure: Whether there is such a row; else the rows of a split column decide, which nobody has read.
    """

    split: str
    has_images: bool
    columns: dict[str, Column]
    rows: int | None
    has_labels: bool = False
    is_sure: bool = True

    def has_pair(self, first: str, second: str) -> bool:
        """Say whether a row may have a caption of each, or two where both are one column."""
        if first == second:
            return first in self.columns and self.columns[first].is_list
        return first in self.columns and second in self.columns


def groups_of_rows(source: Source, rows: Iterable[Row]) -> list[Group]:
    """Return the groups of a source all of whose rows are known."""
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
    """Return the groups that params promise of a source, of which no more than the number of rows is known.

    Args:
        source: From params.
        rows: How many it has at most.
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
    return [_of_scenes(source, split, count) for split, count in counts.items() if count]


def with_captioners(groups: Iterable[Group], section: Recaption) -> list[Group]:
    """Add the columns that captioners write for images."""
    found = list(groups)
    for captioner in section.captioners:
        found = [
            replace(group, columns=group.columns | dict(_written(captioner, group)))
            if group.has_images
            else group
            for group in found
        ]
    return found


def _of_scenes(source: Scenes | SceneTexts, split: str, count: int) -> Group:
    has_images = isinstance(source, Scenes)
    names = ["alt"] if has_images and split == "train" else list(COLUMN_LANGUAGES)
    columns = {name: Column(frozenset({COLUMN_LANGUAGES[name]}), is_list=True) for name in names}
    return Group(split, has_images, columns, count, has_labels=has_images)


def _written(captioner: Captioner, group: Group) -> Iterator[tuple[str, Column]]:
    if isinstance(captioner, ColumnsCaptioner):
        for take in captioner.columns:
            source = group.columns.get(take.source)
            if group.split in take.splits and source and source.is_given:
                is_list = source.is_list and take.take == KEEPS_ALL
                yield take.column, Column(source.languages, is_list, is_given=False)
        return
    language = captioner.language if isinstance(captioner, PromptedCaptioner) else MODEL_LANGUAGE
    for name, splits in captioner.written():
        if group.split in splits:
            yield name, Column(frozenset({language}), is_list=False, is_given=False)
