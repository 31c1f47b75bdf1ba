"""Measure every arm and the base CLIP on the test split, and write a self-contained report.

Reads
    artifacts/download/shards/              images and labels (split test)
    artifacts/recaption/captions/           the captions, as queries and as candidates
    artifacts/audit/kept/, verdict.json     the rows that passed, and whether the audit passed
    artifacts/embed_captions/<name>/        embeddings of captions and prompts
    artifacts/tune_llm/                     the models that must have made these embeddings
    artifacts/base_models/clip/, about.json the base CLIP, a control, if it has a text tower
    artifacts/train_clip/                   the arms
Writes
    artifacts/evaluate/report.html          one page without external links, scripts or fonts
    artifacts/evaluate/plots/*.csv          for `dvc plots`
    metrics/evaluate.json
"""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

from components.errors import ConfigurationError, DataError
from components.evaluate.findings import Findings
from components.evaluate.gallery import gallery
from components.evaluate.measure import ArmResult, measure_arm, measure_captions, measure_difference
from components.evaluate.models import LlmModel, OwnTextModel
from components.evaluate.plots import write_plot_tables
from components.evaluate.report import write_report
from components.ml.vision.clip import has_text_tower, load_base
from components.ml.vision.towers import image_size_of
from components.running.held_out import (
    HeldOut,
    HeldOutVectors,
    TaskCaptions,
    caption_pairs,
    read_held_out,
    read_jpegs,
    task_captions,
)
from components.running.output import output, write_metrics
from components.running.progress import Progress
from components.running.rows import Rows
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import read_json
from components.storage.audited_rows import require_verdict
from components.storage.layout import Layout
from components.storage.manifest import read_manifest

log = logging.getLogger(__name__)

STAGE, SPLIT = "evaluate", "test"
BASE = "base_clip"  # the arm that was never trained here
NO_TEXTS = (
    "base_clip is left out: base_models.clip is a vision tower without a text tower, and embeds no captions"
)


def run(params: Params, env: Environment) -> None:
    """Measure all arms."""
    layout, settings = Layout(env.work_store), params.evaluate
    require_verdict(layout)
    rows = Rows()
    held_out = read_held_out(
        layout, SPLIT, layout.work(STAGE), _image_size(layout), rows, with_labels=bool(settings.zero_shot)
    )
    tasks = [task_captions(held_out, task, "evaluate.retrieval") for task in settings.retrieval]
    pairs = {task.name: caption_pairs(held_out, task) for task in settings.caption_retrieval}
    columns = {task.column for task in settings.retrieval}
    columns |= {column for task in settings.caption_retrieval for column in (task.first, task.second)}
    caches: dict[str, HeldOutVectors] = {
        name: HeldOutVectors(
            layout, name, params.embed_captions, columns, layout.work(STAGE), SPLIT, bool(settings.zero_shot)
        )
        for name in params.embed_captions.names
    }
    try:
        arms = _measure_arms(params, env, layout, held_out, tasks, caches)
        captions = {
            name: measure_captions(*captions_of_task, caches, settings, params.seed)
            for name, captions_of_task in pairs.items()
        }
    except ValueError as error:
        raise DataError(f"{error}; `llm2clip forget train_clip arms` has them trained again") from None

    subject, *controls = arms
    differences = {
        control: {
            task.name: measure_difference(arms[subject], arms[control], task, settings, params.seed)
            for task in tasks
        }
        for control in controls
    }
    findings = Findings(
        preset=params.preset,
        seed=params.seed,
        settings=settings,
        rows=rows.figures(),
        tasks=tasks,
        arms=arms,
        captions=captions,
        differences=differences,
        history=_history(layout, list(arms)),
        left_out=None if BASE in arms else NO_TEXTS,
        equal_cost=params.train_clip.equal_cost,
    )
    sections = gallery(findings, held_out, lambda keys: read_jpegs(layout, held_out, keys))
    with output(layout, STAGE) as out:
        write_plot_tables(out.folder / "plots", arms, findings.history)
        write_report(out.folder / "report.html", findings, sections)
    figures = _metrics(rows, tasks, arms, captions)
    write_metrics(layout, STAGE, {**figures, "differences": {subject: differences}})


def _image_size(layout: Layout) -> int:
    read_manifest(layout.artifact("base_models"), "clip/")
    try:
        return image_size_of(load_base(layout.artifact("base_models") / "clip"))
    except ValueError as error:
        raise DataError(f"{error}; `llm2clip forget base_models clip` has it made again") from None


def _measure_arms(
    params: Params,
    env: Environment,
    layout: Layout,
    held_out: HeldOut,
    tasks: list[TaskCaptions],
    caches: dict[str, HeldOutVectors],
) -> dict[str, ArmResult]:
    """Return the result of each arm, in the order of params, and of the base CLIP, if it embeds texts."""
    trained = layout.artifact("train_clip")
    read_manifest(trained)
    names = [arm["name"] for arm in read_json(trained / "arms.json")]
    if has_text_tower(layout.artifact("base_models") / "clip"):
        names.append(BASE)
    else:
        log.warning(NO_TEXTS)
    progress = Progress(layout.work(STAGE), STAGE, len(names), "arms")
    arms: dict[str, ArmResult] = {}
    for name in names:
        model: LlmModel | OwnTextModel
        if name == BASE:
            about = _about_base(layout)
            model = OwnTextModel(layout.artifact("base_models") / "clip", env.device)
        else:
            about = read_json(trained / name / "model.json")
            model = _trained_model(trained / name, about, caches, env.device)
        arms[name] = measure_arm(about, model, held_out, tasks, params.evaluate, params.seed)
        progress.advance(note=name)
    return arms


def _trained_model(
    folder: Path, about: dict[str, Any], caches: dict[str, HeldOutVectors], device: str
) -> LlmModel | OwnTextModel:
    if about["text"] == "own":
        return OwnTextModel(folder / "clip", device)
    if about["text"] not in caches:
        raise ConfigurationError(
            f"arm {about['name']} needs the embeddings of {about['text']}, embed_captions lists "
            f"{', '.join(caches)}: add it"
        )
    return LlmModel(folder, caches[about["text"]], device)


def _about_base(layout: Layout) -> dict[str, Any]:
    read_manifest(layout.artifact("base_models"), "about.json")
    about = read_json(layout.artifact("base_models") / "about.json")["clip"]
    return {"name": BASE, "text": "own", "trained": about.get("trained", True)}


def _history(layout: Layout, arms: list[str]) -> dict[str, list[dict[str, float]]]:
    """Return the history of each trained arm: for each step, the figures that were measured."""
    history = {}
    for arm in arms:
        path = layout.artifact("train_clip") / "history" / f"{arm}.csv"
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                lines = list(csv.DictReader(file))
            history[arm] = [{name: float(value) for name, value in line.items() if value} for line in lines]
    return history


def _metrics(
    rows: Rows, tasks: list[TaskCaptions], arms: dict[str, ArmResult], captions: dict[str, Any]
) -> dict[str, Any]:
    return {
        **rows.figures(),
        "tasks": {task.name: {"images": len(task.images), "captions": len(task.captions)} for task in tasks},
        "arms": {
            name: {
                "retrieval": arm.retrieval,
                "zero_shot": arm.zero_shot,
                **({"truncated_share": arm.truncated} if arm.truncated else {}),
                **({"trained": arm.about["trained"]} if "trained" in arm.about else {}),
            }
            for name, arm in arms.items()
        },
        "caption_retrieval": captions,
    }
