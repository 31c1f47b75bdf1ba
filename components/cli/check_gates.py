"""Check that the gates of a release name metrics that evaluate will write."""

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
BY_PEOPLE = "by people"


def check_release(params: Params) -> list[Problem]:
    """Return a problem for each gate whose metric evaluate does not write."""
    known = figures_of(params)
    return [
        Problem(
            ("register", "gates", index, "metric"),
            f"evaluate writes no figure {gate.metric}: {advice(gate.metric, known)}",
        )
        for index, gate in enumerate(params.register.gates)
        if gate.metric not in known and not gate.metric.startswith("rejected.")
    ]


def figures_of(params: Params) -> set[str]:
    """Return the names of all numbers in metrics/evaluate.json, except those of rejected rows."""
    settings = params.evaluate
    trained = {arm.name: arm.text == "own" for arm in params.train_clip.arms}
    recalls = [f"recall_at_{k}" for k in settings.recall_at]
    names = set(COUNTS)
    for arm, has_text_tower in (trained | {BASE: True}).items():
        for task, direction, recall, figure in product(settings.retrieval, DIRECTIONS, recalls, FIGURES):
            names.add(f"arms.{arm}.retrieval.{task.name}.{direction}.{recall}.{figure}")
        for zero_shot, figure in product(settings.zero_shot, FIGURES):
            names.add(f"arms.{arm}.zero_shot.{zero_shot.name}.{figure}")
        if has_text_tower:
            names |= {f"arms.{arm}.truncated_share.{task.name}" for task in settings.retrieval}
    for pair_task, name, figure in product(
        settings.caption_retrieval, ("tfidf", *params.embed_captions.names), FIGURES
    ):
        names.add(f"caption_retrieval.{pair_task.name}.{name}.{figure}")
    subject, *others = trained
    for arm, task, direction, figure in product([*others, BASE], settings.retrieval, DIRECTIONS, DIFFERENCES):
        names.add(f"differences.{subject}.{arm}.{task.name}.{direction}.{figure}")
    return names | {
        f"tasks.{task.name}.{count}" for task in settings.retrieval for count in ("images", "captions")
    }


def gate_lines(params: Params) -> list[str]:
    """Return a line for each caption column: who wrote it, and for what reasons a caption is rejected."""
    given = caption_columns(params.download.sources)
    return [*_source_lines(params, given), *_captioner_lines(params, given)]


def _source_lines(params: Params, given: dict[str, CaptionColumn]) -> Iterator[str]:
    for name, column in given.items():
        if column.by_model:
            yield _line(params, name, _writer(column), column.kind, is_answer=True)
        else:
            yield f"gates of {name}, {BY_PEOPLE}: none"


def _captioner_lines(params: Params, given: dict[str, CaptionColumn]) -> Iterator[str]:
    for captioner in params.recaption.captioners:
        if isinstance(captioner, ColumnsCaptioner):
            for rule in captioner.columns:
                column = given.get(rule.source)
                by_model = column is not None and column.by_model
                kind = column.kind if column and by_model else None
                writer = _writer(column) if column else BY_PEOPLE
                yield _line(params, rule.column, f"of {rule.source}, {writer}", kind, is_answer=by_model)
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
