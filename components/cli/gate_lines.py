"""Which gates of recaption judge the captions of each column, for `llm2clip check`."""

from __future__ import annotations

from collections.abc import Iterator

from components.settings.params import Params
from components.settings.recaption import ColumnsCaptioner, PromptedCaptioner
from components.settings.sources import CaptionColumn, Kind, caption_columns

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
