"""Whether each caption column that params read is written, from sources through recaption to its readers."""

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
        location: Of it.
        columns: By the key that names them, below `location`.
        split: Of the rows that it reads.
        least: So many rows must have all columns.
        language: That captions are to be in; None: any.
        with_texts: Whether rows without images are read as well.
    """

    location: Location
    columns: Names
    split: str
    least: int = 1
    language: str | None = None
    with_texts: bool = False


def check_columns(params: Params, groups: Sequence[Group]) -> list[Problem]:
    """Return a problem for each column that is read and that nothing gives.

    Args:
        params: Of the run.
        groups: The rows of all sources, with the columns that came with them.
    """
    after = with_captioners(groups, params.recaption)
    readers = [*_of_tuning(params), *_of_training(params), *_of_evaluation(params)]
    return [
        *_missing_splits(params, after),
        *_sources_of_captioners(params, groups),
        *_writers(params, groups),
        *_scored(params, after),
        *(problem for reader in readers for problem in _lacking(reader, after)),
        *_labels(params, after),
        *_batches(params, after),
    ]


def _missing_splits(params: Params, groups: Sequence[Group]) -> Iterator[Problem]:
    needed = dict(NEEDED)
    if params.train_clip.validation.retrieval:
        needed["validation", True] = "images of split validation, which train_clip measures on"
    for (split, images_only), what in needed.items():
        if not any(group.split == split and (group.has_images or not images_only) for group in groups):
            yield Problem(("download", "sources"), f"no source gives {what}; add one that does")


def _sources_of_captioners(params: Params, groups: Sequence[Group]) -> Iterator[Problem]:
    """Yield what captioners of kind columns read and no source gives."""
    for number, captioner in enumerate(params.recaption.captioners):
        if not isinstance(captioner, ColumnsCaptioner):
            continue
        for place, take in enumerate(captioner.columns):
            location = ("recaption", "captioners", number, "columns", place)
            for split in take.splits:
                yield from _lacking(Reader(location, {"source": take.source}, split), groups)


def _writers(params: Params, groups: Sequence[Group]) -> Iterator[Problem]:
    """Yield columns that two write: a source and a captioner, or two captioners."""
    writer = {
        (name, group.split): "a source"
        for group in groups
        if group.has_images and group.is_sure
        for name in group.columns
    }
    for number, captioner in enumerate(params.recaption.captioners):
        written = [(name, split) for name, splits in captioner.written() for split in splits]
        for name, split in written:
            if (name, split) in writer:
                yield Problem(
                    ("recaption", "captioners", number),
                    f"writes column {name} of {split}, which {writer[name, split]} gives already; expected a "
                    "column of its own: give it another name",
                )
        writer |= dict.fromkeys(written, f"captioner {captioner.name}")


def _scored(params: Params, groups: Sequence[Group]) -> Iterator[Problem]:
    """Yield columns of scores, and of the filter by them, that no image has or that have no score."""
    known = {name for group in groups if group.has_images for name in group.columns}
    scores, similarity = params.recaption.scores, params.audit.curation.similarity
    columns = scores.columns if scores else None
    for number, name in enumerate(columns or []):
        if name not in known:
            yield Problem(
                ("recaption", "scores", "columns", number),
                f"{name} is no caption column of images; there are {listed(known)}: {advice(name, known)}",
            )
    scored = known if columns is None else set(columns)
    for number, name in enumerate(similarity.columns if similarity else []):
        if name not in scored:
            yield Problem(
                ("audit", "curation", "similarity", "columns", number),
                f"{name} gets no similarity; recaption.scores gives {listed(scored)}: {advice(name, scored)}",
            )


def _of_tuning(params: Params) -> Iterator[Reader]:
    own = params.tune_llm
    for number, phase in enumerate(own.phases):
        for place, pair in enumerate(phase.pairs):
            if pair.weight > 0:
                names: Names = {"first": pair.first, "second": pair.second}
                names |= {"negative": pair.negative} if pair.negative else {}
                location: Location = ("tune_llm", "phases", number, "pairs", place)
                yield Reader(location, names, "train", least=2, with_texts=True)
    for place, name in enumerate(own.mntp.columns if own.mntp else []):
        yield Reader(("tune_llm", "mntp", "columns"), {place: name}, "train", with_texts=True)
    for place, task in enumerate(own.caption_retrieval):
        names = {"first": task.first, "second": task.second}
        location = ("tune_llm", "caption_retrieval", place)
        yield Reader(location, names, "validation", least=2, with_texts=True)


def _of_training(params: Params) -> Iterator[Reader]:
    for name in params.train_clip.caption_mix:
        yield Reader(("train_clip", "caption_mix"), {name: name}, "train")
    for place, task in enumerate(params.train_clip.validation.retrieval):
        location: Location = ("train_clip", "validation", "retrieval", place)
        yield Reader(location, {"column": task.column}, "validation", language=task.language)


def _of_evaluation(params: Params) -> Iterator[Reader]:
    for place, task in enumerate(params.evaluate.retrieval):
        location = ("evaluate", "retrieval", place)
        yield Reader(location, {"column": task.column}, "test", language=task.language)
    for place, of_captions in enumerate(params.evaluate.caption_retrieval):
        names: Names = {"first": of_captions.first, "second": of_captions.second}
        yield Reader(("evaluate", "caption_retrieval", place), names, "test")


def _lacking(reader: Reader, groups: Sequence[Group]) -> Iterator[Problem]:
    """Yield the columns that a reader names and nobody gives; else what keeps rows from having all."""
    rows = "row" if reader.with_texts else "image"
    read = [one for one in groups if one.split == reader.split and (one.has_images or reader.with_texts)]
    known = {name for group in read for name in group.columns}
    if not read:
        return  # told once of the split
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
    if reader.language is not None and not (languages := _languages(read, names)) >= {reader.language}:
        yield Problem(
            (*reader.location, "language"),
            f"no {rows} of split {reader.split} has captions {names} in {reader.language}; they are in "
            f"{listed(languages)}: correct the language",
        )
    count = _at_most([group for group in read if _has_all(group, reader)])
    if count is not None and count < reader.least:
        yield Problem(
            reader.location,
            f"{count} {rows}s of split {reader.split} have captions of {names}; expected {reader.least} or "
            "more: name columns that one row has",
        )


def _languages(groups: Sequence[Group], name: str) -> set[str]:
    return {one for group in groups if name in group.columns for one in group.columns[name].languages}


def _has_all(group: Group, reader: Reader) -> bool:
    names = reader.columns
    has_pair = "first" not in names or group.has_pair(names["first"], names["second"])
    return has_pair and set(names.values()) <= group.columns.keys()


def _at_most(groups: Sequence[Group]) -> int | None:
    """Return the rows of groups, at most; None where nobody knows."""
    counts = [group.rows for group in groups]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _labels(params: Params, groups: Sequence[Group]) -> Iterator[Problem]:
    """Yield tasks whose label no test image has; scenes alone have labels."""
    labelled = [group for group in groups if group.has_labels and group.split == "test"]
    known = set(scene_labels(next(iter(draw_scenes("labels", "test", 1, 0))))) if labelled else set()
    for place, task in enumerate(params.evaluate.zero_shot):
        if task.label not in known:
            hint = advice(task.label, known) if known else "remove the task: only kind scenes gives labels"
            yield Problem(
                ("evaluate", "zero_shot", place, "label"),
                f"no test image has a label {task.label}; there are {listed(known)}: {hint}",
            )


def _batches(params: Params, groups: Sequence[Group]) -> Iterator[Problem]:
    """Yield batches larger than the rows that they are drawn from."""
    for number, phase in enumerate(params.tune_llm.phases):
        location: Location = ("tune_llm", "phases", number, "batch_size")
        yield from _too_large(location, phase.batch_size, _pairs_of(phase, groups), "rows with such a pair")
    mix = {name for name, weight in params.train_clip.caption_mix.items() if weight > 0}
    images = [one for one in groups if one.has_images and one.split == "train" and mix & one.columns.keys()]
    location = ("train_clip", "batch_size")
    yield from _too_large(location, params.train_clip.batch_size, _at_most(images), "images")
    for name in ("clip", "captioner"):
        model = getattr(params.base_models, name)
        scenes = getattr(model, "scenes", None)
        if scenes is not None and model.training.steps:
            location = ("base_models", name, "training", "batch_size")
            yield from _too_large(location, model.training.batch_size, scenes.counts.train, "scenes")


def _pairs_of(phase: Phase, groups: Sequence[Group]) -> int | None:
    """Return how many rows the kind of pair with the fewest has, at most; None where nobody knows."""
    train = [group for group in groups if group.split == "train"]
    counts = [
        _at_most([group for group in train if group.has_pair(kind.first, kind.second)])
        for kind in phase.pairs
        if kind.weight > 0
    ]
    return min((count for count in counts if count), default=None)  # none at all is told of the pair


def _too_large(location: Location, batch: int, rows: int | None, what: str) -> Iterator[Problem]:
    if rows and batch > rows:
        yield Problem(
            location,
            f"a batch of {batch:,} is more than the {rows:,} {what} of split train; expected no more: lower "
            "it, or bring more data",
        )
