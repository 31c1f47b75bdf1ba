"""Whether the gates of a release name figures that evaluate will write."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from components.cli.problems import Problem, advice
from components.settings.params import Params
from components.settings.recaption import ColumnsCaptioner, PromptedCaptioner
from components.settings.sources import CaptionColumn, Kind, caption_columns

BASE = "base_clip"  # the arm that evaluate adds
FIGURES = ("value", "low", "high", "chance")
DIFFERENCES = ("value", "low", "high")
DIRECTIONS = ("text_to_image", "image_to_text")
COUNTS = ("rows_in", "rows_out")


def check_release(params: Params) -> list[Problem]:
    """Return a problem for each gate whose metric evaluate does not write."""
    known = figures_of(params)
    return [
        Problem(
            ("register", "gates", place, "metric"),
            f"evaluate writes no figure {gate.metric}: {advice(gate.metric, known)}",
        )
        for place, gate in enumerate(params.register.gates)
        if gate.metric not in known and not gate.metric.startswith("rejected.")
    ]


def figures_of(params: Params) -> set[str]:
    """Return the names of all numbers of metrics/evaluate.json but those of rejected rows."""
    own = params.evaluate
    trained = {arm.name: arm.text == "own" for arm in params.train_clip.arms}
    recalls = [f"recall_at_{k}" for k in own.recall_at]
    found = set(COUNTS)
    for arm, is_own in (trained | {BASE: True}).items():
        for task, way, recall, figure in product(own.retrieval, DIRECTIONS, recalls, FIGURES):
            found.add(f"arms.{arm}.retrieval.{task.name}.{way}.{recall}.{figure}")
        for zero_shot, figure in product(own.zero_shot, FIGURES):
            found.add(f"arms.{arm}.zero_shot.{zero_shot.name}.{figure}")
        if is_own:
            found |= {f"arms.{arm}.truncated_share.{task.name}" for task in own.retrieval}
    for of_captions, name, figure in product(
        own.caption_retrieval, ("tfidf", *params.embed_captions.names), FIGURES
    ):
        found.add(f"caption_retrieval.{of_captions.name}.{name}.{figure}")
    subject, *others = trained
    for arm, task, way, figure in product([*others, BASE], own.retrieval, DIRECTIONS, DIFFERENCES):
        found.add(f"differences.{subject}.{arm}.{task.name}.{way}.{figure}")
    return found | {f"tasks.{task.name}.{what}" for task in own.retrieval for what in ("images", "captions")}


BY_PEOPLE = "by people"


def gate_lines(params: Params) -> list[str]:
    """Return a line for each caption column: who wrote it, and for what reasons a caption is rejected."""
    given = caption_columns(params.download.sources)
    return [*_of_sources(params, given), *_of_captioners(params, given)]


def _of_sources(params: Params, given: dict[str, CaptionColumn]) -> Iterator[str]:
    for name, column in given.items():
        if column.by_model:
            yield _line(params, name, _writer(column), column.kind, is_answer=True)
        else:
            yield f"gates of {name}, {BY_PEOPLE}: none"


def _of_captioners(params: Params, given: dict[str, CaptionColumn]) -> Iterator[str]:
    for captioner in params.recaption.captioners:
        if isinstance(captioner, ColumnsCaptioner):
            for take in captioner.columns:
                column = given.get(take.source)
                by_model = column is not None and column.by_model
                kind = column.kind if column and by_model else None
                writer = _writer(column) if column else BY_PEOPLE
                yield _line(params, take.column, f"of {take.source}, {writer}", kind, is_answer=by_model)
            continue
        is_answer = isinstance(captioner, PromptedCaptioner)
        for kind in captioner.prompts if isinstance(captioner, PromptedCaptioner) else captioner.writes:
            column_name = f"{captioner.name}_{kind}"
            yield _line(params, column_name, f"by {captioner.kind}, {kind}", kind, is_answer=is_answer)


def _line(params: Params, name: str, writer: str, kind: Kind | None, *, is_answer: bool) -> str:
    reasons = params.recaption.gates.reasons(kind, is_answer=is_answer)
    return f"gates of {name}, {writer}: {', '.join(reasons)}"


def _writer(column: CaptionColumn) -> str:
    return f"by a model, {column.kind or 'of no kind'}" if column.by_model else BY_PEOPLE
