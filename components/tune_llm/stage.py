"""Tune the language model so that captions of one image are close and others are not (METHOD 1).

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

from components.faults import ConfigurationFault, GateFault
from components.ml.llm import TextEncoder, load_text_encoder
from components.running.output import output, write_metrics
from components.running.rows import Rows
from components.running.training import train
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.tune_llm import TuneLlm
from components.storage.atomic import write_bytes, write_json
from components.storage.kept import require_verdict
from components.storage.layout import Layout
from components.storage.manifest import folder_key
from components.tune_llm.caption_retrieval import llm_recalls, tfidf_recalls
from components.tune_llm.caption_rows import CaptionRow, data_key, read_caption_rows
from components.tune_llm.pairs import PairDraws
from components.tune_llm.saving import encoding_of, save_tuned, trained_share
from components.tune_llm.tuning import open_weights, phase_run

STAGE = "tune_llm"
NOT_TRAINING = {"phases", "caption_retrieval", "min_caption_retrieval_gain", "checkpoint_steps"}
History = list[dict[str, float]]


def run(params: Params, env: Environment) -> None:
    """Run the stage."""
    layout = Layout(env.work_store)
    own = params.tune_llm
    require_verdict(layout)
    decided_by = {
        "seed": params.seed,
        "llm": folder_key(layout.artifact("base_models"), "llm/"),
        "data": data_key(layout),
        "params": own.model_dump(exclude=NOT_TRAINING),
    }
    rows = Rows()
    train_rows = read_caption_rows(layout, "train", rows)
    validation_rows = read_caption_rows(layout, "validation", Rows())
    draws = [
        PairDraws(train_rows, phase, params.seed + number) for number, phase in enumerate(own.phases, start=1)
    ]
    _count(rows, train_rows, draws)

    encoder = _load(layout, own, env.device)
    recalls = {
        "tfidf": tfidf_recalls(own.caption_retrieval, validation_rows),
        "base": llm_recalls(encoder, own.caption_retrieval, validation_rows),
    }
    adapter = open_weights(encoder, own, params.seed)
    share = trained_share(encoder)
    histories: list[History] = []
    for number, (phase, pairs) in enumerate(zip(own.phases, draws, strict=True), start=1):
        name = f"{STAGE}_phase{number}"
        phases = [earlier.model_dump() for earlier in own.phases[:number]]
        this_run = phase_run(encoder, own, phase, pairs, name, params.seed + number)
        identity = {**decided_by, "phases": phases}
        histories.append(train(this_run, layout.work(STAGE), identity, own.checkpoint_steps))

    with output(layout, STAGE) as out:
        texts = [text for row in validation_rows for texts in row.captions.values() for text in texts]
        tuned = save_tuned(out.folder, encoder, adapter, own, texts)
        recalls["tuned"] = llm_recalls(tuned, own.caption_retrieval, validation_rows)
        write_bytes(out.folder / "history.csv", _csv(histories))
        metrics = {**rows.figures(), **share, "caption_retrieval": _by_task(recalls)}
        metrics["phases"] = [_figures(*phase) for phase in zip(histories, draws, strict=True)]
        _check_gain(own, recalls, metrics, layout.work(STAGE) / "failed.json")
    write_metrics(layout, STAGE, metrics)


def _load(layout: Layout, own: TuneLlm, device: str) -> TextEncoder:
    try:
        return load_text_encoder(layout.artifact("base_models") / "llm", **encoding_of(own), device=device)
    except ValueError as error:
        raise ConfigurationFault(f"tune_llm.encoding and base_models.llm do not fit: {error}") from None


def _count(rows: Rows, train_rows: list[CaptionRow], draws: list[PairDraws]) -> None:
    taking_part = {row.key for pairs in draws for found in pairs.rows for row in found}
    rows.accept(len(taking_part))
    rows.reject("no_pair_of_columns", len(train_rows) - len(taking_part))


def _by_task(recalls: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Turn {who: {task: recall}} into {task: {who: recall_at_1}}."""
    return {task: {who: found[task] for who, found in recalls.items()} for task in recalls["tuned"]}


def _figures(history: History, pairs: PairDraws) -> dict[str, Any]:
    return {
        "rows": pairs.rows_by_kind(),
        "steps": pairs.phase.steps,
        "first_loss": history[0]["loss"] if history else None,
        "last_loss": history[-1]["loss"] if history else None,
    }


def _csv(histories: list[History]) -> bytes:
    lines = [
        f"{number},{point['step']},{point['loss']:.6f}"
        for number, history in enumerate(histories, start=1)
        for point in history
    ]
    return "\n".join(["phase,step,loss", *lines, ""]).encode()


def _check_gain(
    own: TuneLlm, recalls: dict[str, dict[str, float]], metrics: dict[str, Any], failed: Path
) -> None:
    """Stop below the limit, and leave the figures where DVC does not take them for the last good ones."""
    failed.unlink(missing_ok=True)
    name = own.caption_retrieval[0].name
    tuned, base = recalls["tuned"][name], recalls["base"][name]
    if tuned - base < own.min_caption_retrieval_gain:
        write_json(failed, metrics)
        raise GateFault(
            f"caption retrieval {name}: recall_at_1 is {tuned:.3f} after tuning and {base:.3f} before; "
            f"tune_llm.min_caption_retrieval_gain asks for {own.min_caption_retrieval_gain:+g}: "
            "change learning rate, steps or pairs ({failed} has the losses)"
        )
