"""Tune the language model so that captions of one image are close and others are not (docs/method.md, 1).

Reads:
    artifacts/base_models/llm/, artifacts/download/texts/, artifacts/recaption/captions/,
    artifacts/audit/kept/ and verdict.json.
Writes:
    artifacts/tune_llm/llm/ (merged), adapter/ (PEFT, for LoRA), encoding.json, history.csv;
    metrics/tune_llm.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.errors import GateError
from components.running.costs import store_spent
from components.running.output import output, write_metrics
from components.running.ranks import train_apart
from components.running.training import history_csv
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.tune_llm import TuneLlm
from components.storage.atomic import write_bytes, write_json
from components.storage.audited_rows import require_verdict
from components.storage.layout import Layout
from components.tune_llm.caption_retrieval import llm_figures, tfidf_recalls
from components.tune_llm.caption_rows import CaptionTexts
from components.tune_llm.pairs import PairDraws
from components.tune_llm.phases import STAGE, History, load_base, tune
from components.tune_llm.saving import load_tuned, save_tuned, trained_share
from components.tune_llm.training_data import TrainingData


def run(params: Params, env: Environment) -> None:
    """Run the stage."""
    layout, settings = Layout(env.work_store), params.tune_llm
    require_verdict(layout)
    data = TrainingData(params, layout)
    tasks, validation_rows = settings.caption_retrieval, data.validation_rows
    recalls = {"tfidf": tfidf_recalls(tasks, validation_rows)}
    train_apart(STAGE, env, layout.work(STAGE))

    encoder = load_base(data, env.device)
    base_precision, spread = encoder.precision, {}
    recalls["base"], spread["base"] = llm_figures(encoder, tasks, validation_rows)
    trained = tune(data, encoder, env)
    weight_counts = trained_share(encoder)
    store_spent(layout.work(STAGE), {"tuned": trained.spent})
    with output(layout, STAGE) as out:
        texts = CaptionTexts(validation_rows, validation_rows.columns)
        save_tuned(out.folder, trained.encoder, trained.adapter, settings, texts)
        saved = load_tuned(out.folder, env.device, base_precision)
        recalls["tuned"], spread["tuned"] = llm_figures(saved, tasks, validation_rows)
        points = [
            {"phase": number, **point}
            for number, history in enumerate(trained.histories, start=1)
            for point in history
        ]
        write_bytes(out.folder / "history.csv", history_csv(points, ["phase", "step", "loss"]))
        metrics = {
            **data.rows.figures(),
            **weight_counts,
            # what `auto` resolved to: machines with another precision tune other weights
            "precision": settings.precision,
            "caption_retrieval": _by_task(recalls),
            "spread": _by_task(spread),
            "loads_in_sentence_transformers": (out.folder / "llm" / "modules.json").is_file(),
            "mntp": _losses(trained.masking),
            "phases": [_figures(*phase) for phase in zip(trained.histories, data.draws, strict=True)],
        }
        _check_gain(settings, recalls, metrics, layout.work(STAGE) / "failed.json")
    write_metrics(layout, STAGE, metrics)


def train(params: Params, env: Environment) -> None:
    """Train as one of several processes; the result is the checkpoint of the last step (`running.ranks`)."""
    data = TrainingData(params, Layout(env.work_store))
    tune(data, load_base(data, env.device), env)


def _by_task(figures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Turn {model: {task: figure}} into {task: {model: figure}}."""
    return {task: {model: by_task[task] for model, by_task in figures.items()} for task in figures["tuned"]}


def _figures(history: History, pairs: PairDraws) -> dict[str, Any]:
    return {"rows": pairs.rows_by_kind(), "steps": pairs.phase.steps, **_losses(history)}


def _losses(history: History) -> dict[str, float | None]:
    ends = [history[0]["loss"], history[-1]["loss"]] if history else [None, None]
    return {"first_loss": ends[0], "last_loss": ends[1]}


def _check_gain(
    settings: TuneLlm, recalls: dict[str, dict[str, float]], metrics: dict[str, Any], failed_path: Path
) -> None:
    """Check the gain; write failing metrics to a file that DVC does not take for the last good ones.

    Raises:
        GateError: the gain is below its limit.
    """
    failed_path.unlink(missing_ok=True)
    name = settings.caption_retrieval[0].name
    tuned, base = recalls["tuned"][name], recalls["base"][name]
    if tuned - base < settings.min_caption_retrieval_gain:
        write_json(failed_path, metrics)
        raise GateError(
            f"caption retrieval {name}: recall_at_1 is {tuned:.3f} after tuning and {base:.3f} before; "
            f"tune_llm.min_caption_retrieval_gain asks for {settings.min_caption_retrieval_gain:+g}: "
            f"change learning rate, steps or pairs ({failed_path} has the losses)"
        )
