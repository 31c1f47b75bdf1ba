"""Check that each caption column that params read is given by a source or written by a captioner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from components.cli.caption_groups import Group, with_captioners
from components.cli.problems import Problem, advice, listed
from components.settings.params import Params
from components.settings.recaption import ColumnsCaptioner
from components.settings.tune_llm import Phase
from components.sources.input_paths import Location
from components.sources.scenes.scene import draw_scenes, scene_labels

NEEDED = {
    ("train", True): "images of split train, which train_clip learns from",
    ("test", True): "images of split test, which evaluate measures on",
    ("train", False): "captions of split train, which tune_llm learns from",
    ("validation", False): "captions of split validation, which tune_llm measures on",
}


Names = dict[str | int, str]


@dataclass(frozen=True)
class Reader:
    """A part of params that reads caption columns.

    Attributes:
        location: Position in params.
        columns: Column names, by the key below `location` that names them.
        split: Split of the rows that it reads.
        least: Number of rows that must have all columns.
        language: Required language of the captions; None: any.
        with_texts: True if rows without images are read as well.
    """

    location: Location
    columns: Names
    split: str
    least: int = 1
    language: str | None = None
    with_texts: bool = False


def check_columns(params: Params, groups: Sequence[Group]) -> list[Problem]:
    """Return a problem for each column that is read but neither given nor written.

    Args:
        params: Params of the run.
        groups: The rows of all sources, with the columns that came with them.
    """
    all_groups = with_captioners(groups, params.recaption)
    readers = [*_tuning_readers(params), *_training_readers(params), *_evaluation_readers(params)]
    return [
        *_missing_splits(params, all_groups),
        *_missing_captioner_sources(params, groups),
        *_duplicate_writers(params, groups),
        *_unscored(params, all_groups),
        *(problem for reader in readers for problem in _missing_columns(reader, all_groups)),
        *_missing_labels(params, all_groups),
        *_large_batches(params, all_groups),
    ]


def _missing_splits(params: Params, groups: Sequence[Group]) -> Iterator[Problem]:
    needed = dict(NEEDED)
    if params.train_clip.validation.retrieval:
        needed["validation", True] = "images of split validation, which train_clip measures on"
    for (split, images_only), description in needed.items():
        if not any(group.split == split and (group.has_images or not images_only) for group in groups):
            yield Problem(("download", "sources"), f"no source gives {description}; add one that does")


def _missing_captioner_sources(params: Params, groups: Sequence[Group]) -> Iterator[Problem]:
    """Yield columns that captioners of kind columns read but no source gives."""
    for index, captioner in enumerate(params.recaption.captioners):
        if not isinstance(captioner, ColumnsCaptioner):
            continue
        for column_index, rule in enumerate(captioner.columns):
            location = ("recaption", "captioners", index, "columns", column_index)
            for split in rule.splits:
                yield from _missing_columns(Reader(location, {"source": rule.source}, split), groups)


def _duplicate_writers(params: Params, groups: Sequence[Group]) -> Iterator[Problem]:
    """Yield columns with two writers: a source and a captioner, or two captioners."""
    writers = {
        (name, group.split): "a source"
        for group in groups
        if group.has_images and group.is_sure
        for name in group.columns
    }
    for index, captioner in enumerate(params.recaption.captioners):
        written = [(name, split) for name, splits in captioner.written() for split in splits]
        for name, split in written:
            if (name, split) in writers:
                yield Problem(
                    ("recaption", "captioners", index),
                    f"writes column {name} of {split}, which {writers[name, split]} already gives; expected "
                    "a column of its own: give it another name",
                )
        writers |= dict.fromkeys(written, f"captioner {captioner.name}")


def _unscored(params: Params, groups: Sequence[Group]) -> Iterator[Problem]:
    """Yield columns of recaption.scores that no image has, and filtered columns that have no score."""
    known = {name for group in groups if group.has_images for name in group.columns}
    scores, similarity = params.recaption.scores, params.audit.curation.similarity
    columns = scores.columns if scores else None
    for index, name in enumerate(columns or []):
        if name not in known:
            yield Problem(
                ("recaption", "scores", "columns", index),
                f"{name} is no caption column of images; there are {listed(known)}: {advice(name, known)}",
            )
    scored = known if columns is None else set(columns)
    for index, name in enumerate(similarity.columns if similarity else []):
        if name not in scored:
            yield Problem(
                ("audit", "curation", "similarity", "columns", index),
                f"{name} gets no similarity; recaption.scores gives {listed(scored)}: {advice(name, scored)}",
            )


def _tuning_readers(params: Params) -> Iterator[Reader]:
    settings = params.tune_llm
    for index, phase in enumerate(settings.phases):
        for item, pair in enumerate(phase.pairs):
            if pair.weight > 0:
                names: Names = {"first": pair.first, "second": pair.second}
                names |= {"negative": pair.negative} if pair.negative else {}
                location: Location = ("tune_llm", "phases", index, "pairs", item)
                yield Reader(location, names, "train", least=2, with_texts=True)
    for item, name in enumerate(settings.mntp.columns if settings.mntp else []):
        yield Reader(("tune_llm", "mntp", "columns"), {item: name}, "train", with_texts=True)
    for item, task in enumerate(settings.caption_retrieval):
        names = {"first": task.first, "second": task.second}
        location = ("tune_llm", "caption_retrieval", item)
        yield Reader(location, names, "validation", least=2, with_texts=True)


def _training_readers(params: Params) -> Iterator[Reader]:
    for name in params.train_clip.caption_mix:
        yield Reader(("train_clip", "caption_mix"), {name: name}, "train")
    for index, task in enumerate(params.train_clip.validation.retrieval):
        location: Location = ("train_clip", "validation", "retrieval", index)
        yield Reader(location, {"column": task.column}, "validation", language=task.language)


def _evaluation_readers(params: Params) -> Iterator[Reader]:
    for index, task in enumerate(params.evaluate.retrieval):
        location = ("evaluate", "retrieval", index)
        yield Reader(location, {"column": task.column}, "test", language=task.language)
    for index, pair_task in enumerate(params.evaluate.caption_retrieval):
        names: Names = {"first": pair_task.first, "second": pair_task.second}
        yield Reader(("evaluate", "caption_retrieval", index), names, "test")


def _missing_columns(reader: Reader, groups: Sequence[Group]) -> Iterator[Problem]:
    """Yield the columns of a reader that no row has; if all exist, why too few rows have all of them."""
    rows = "row" if reader.with_texts else "image"
    read_groups = [
        group for group in groups if group.split == reader.split and (group.has_images or reader.with_texts)
    ]
    known = {name for group in read_groups for name in group.columns}
    if not read_groups:
        return  # reported once for the split
    unknown = {key: name for key, name in reader.columns.items() if name not in known}
    for key, name in unknown.items():
        yield Problem(
            (*reader.location, key),
            f"no {rows} of split {reader.split} has a caption column {name}; there are {listed(known)}: "
            f"{advice(name, known)}",
        )
    if unknown:
        return
    names = " and ".join(reader.columns.values())
    if reader.language is not None and not (languages := _languages(read_groups, names)) >= {reader.language}:
        yield Problem(
            (*reader.location, "language"),
            f"no {rows} of split {reader.split} has captions {names} in {reader.language}; they are in "
            f"{listed(languages)}: fix the language",
        )
    count = _max_rows([group for group in read_groups if _has_all(group, reader)])
    if count is not None and count < reader.least:
        yield Problem(
            reader.location,
            f"{count} {rows}s of split {reader.split} have captions of {names}; expected {reader.least} or "
            "more: name columns that one row has",
        )


def _languages(groups: Sequence[Group], name: str) -> set[str]:
    return {
        language for group in groups if name in group.columns for language in group.columns[name].languages
    }


def _has_all(group: Group, reader: Reader) -> bool:
    names = reader.columns
    has_pair = "first" not in names or group.has_pair(names["first"], names["second"])
    return has_pair and set(names.values()) <= group.columns.keys()


def _max_rows(groups: Sequence[Group]) -> int | None:
    """Return an upper bound of the rows of groups; None if unknown."""
    counts = [group.rows for group in groups]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _missing_labels(params: Params, groups: Sequence[Group]) -> Iterator[Problem]:
    """Yield tasks whose label no test image has; only scenes have labels."""
    labelled = [group for group in groups if group.has_labels and group.split == "test"]
    known = set(scene_labels(next(iter(draw_scenes("labels", "test", 1, 0))))) if labelled else set()
    for index, task in enumerate(params.evaluate.zero_shot):
        if task.label not in known:
            hint = advice(task.label, known) if known else "remove the task: only kind scenes gives labels"
            yield Problem(
                ("evaluate", "zero_shot", index, "label"),
                f"no test image has a label {task.label}; there are {listed(known)}: {hint}",
            )


def _large_batches(params: Params, groups: Sequence[Group]) -> Iterator[Problem]:
    """Yield batch sizes larger than the number of rows that batches are drawn from."""
    for index, phase in enumerate(params.tune_llm.phases):
        location: Location = ("tune_llm", "phases", index, "batch_size")
        yield from _too_large(
            location, phase.batch_size, _rarest_pair_rows(phase, groups), "rows with such a pair"
        )
    mix = {name for name, weight in params.train_clip.caption_mix.items() if weight > 0}
    images = [
        group
        for group in groups
        if group.has_images and group.split == "train" and mix & group.columns.keys()
    ]
    location = ("train_clip", "batch_size")
    yield from _too_large(location, params.train_clip.batch_size, _max_rows(images), "images")
    for name in ("clip", "captioner"):
        model = getattr(params.base_models, name)
        scenes = getattr(model, "scenes", None)
        if scenes is not None and model.training.steps:
            location = ("base_models", name, "training", "batch_size")
            yield from _too_large(location, model.training.batch_size, scenes.counts.train, "scenes")


def _rarest_pair_rows(phase: Phase, groups: Sequence[Group]) -> int | None:
    """Return an upper bound of the rows of the rarest kind of pair; None if unknown."""
    train = [group for group in groups if group.split == "train"]
    counts = [
        _max_rows([group for group in train if group.has_pair(kind.first, kind.second)])
        for kind in phase.pairs
        if kind.weight > 0
    ]
    return min((count for count in counts if count), default=None)  # 0: reported per pair


def _too_large(location: Location, batch: int, rows: int | None, unit: str) -> Iterator[Problem]:
    if rows and batch > rows:
        yield Problem(
            location,
            f"a batch of {batch:,} is more than the {rows:,} {unit} of split train; expected no more: lower "
            "it, or bring more data",
        )
