"""Print the paths of the results of a run and the seconds that they took."""

from __future__ import annotations

from contextlib import suppress

from components.errors import DataError
from components.running.costs import manifest_sha256
from components.storage.atomic import read_json
from components.storage.layout import STAGES, Layout

NAME_WIDTH = 8  # characters of the first column
UNKNOWN = "unknown"


def results(layout: Layout) -> list[str]:
    """Return one line each for reports, metrics and release, and the seconds of training and embedding.

    Raises:
        DataError: the pipeline has not finished.
    """
    paths = {
        "report": layout.artifact("evaluate") / "report.html",
        "audit": layout.artifact("audit") / "report.html",
        "metrics": layout.metrics("evaluate"),
        "model": layout.artifact("register"),
    }
    missing = [str(path) for path in paths.values() if not path.exists()]
    if missing or not all(layout.metrics(stage).is_file() for stage in STAGES):
        raise DataError(f"{(missing or ['a stage of metrics/'])[0]} not found: `dvc repro` makes it")
    return [f"{name:<{NAME_WIDTH}}{path}" for name, path in paths.items()] + _seconds_lines(layout)


def _seconds_lines(layout: Layout) -> list[str]:
    arms = read_json(layout.metrics("train_clip")).get("arms", {})
    arm_seconds = _spent_seconds(layout, "train_clip")
    training = [
        f"{name} {_format_seconds(arm_seconds.get(name))} ({metrics.get('steps', UNKNOWN)} steps)"
        for name, metrics in arms.items()
    ]
    encoders = read_json(layout.metrics("embed_captions")).get("llms", {})
    encoder_seconds = _spent_seconds(layout, "embed_captions")
    tuning = _format_seconds(_spent_seconds(layout, "tune_llm").get("tuned"))
    embedding = [f"{name} {_format_seconds(encoder_seconds.get(name))}" for name in encoders]
    return [
        f"{'seconds':<{NAME_WIDTH}}of training: {', '.join(training)}",
        f"{'':<{NAME_WIDTH}}for cached text, once for all arms: tune_llm {tuning}; embed_captions "
        f"{', '.join(embedding)}",
    ]


def _spent_seconds(layout: Layout, stage: str) -> dict[str, float | None]:
    """Return the seconds that each result of a stage took.

    Empty if the costs file, which DVC does not track, is absent, damaged, of an earlier version, or of a run
    whose output DVC has since replaced.
    """
    with suppress(DataError):
        costs = read_json(layout.costs(stage))
        if costs.get("manifest_sha256") == manifest_sha256(layout, stage):
            seconds: dict[str, float | None] = costs.get("spent_seconds", {})
            return seconds
    return {}


def _format_seconds(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"{seconds:.1f}"
