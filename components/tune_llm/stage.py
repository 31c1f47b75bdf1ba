"""Tune the language model so that captions of one image are close and others are not (docs/method.md, 1).

Reads:
    artifacts/base_models/llm/, artifacts/download/texts/, artifacts/recaption/captions/,
    artifacts/audit/kept/ and verdict.json.
Writes:
    artifacts/tune_llm/llm/ (merged), adapter/ (PEFT, for LoRA), encoding.json, history.csv (the
    phases of all members, one behind the other);
    metrics/tune_llm.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.errors import GateError
from components.ml.text.encoder import TextEncoder
from components.running.costs import tell_spent
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
from components.tune_llm.phases import STAGE, History, Trained, join, load_base, tuned_members
from components.tune_llm.saving import load_tuned, save_tuned, trained_share
from components.tune_llm.training_data import TrainingData


def run(params: Params, env: Environment) -> None:
    """Run the stage."""
    layout, own = Layout(env.work_store), params.tune_llm
    require_verdict(layout)
    material = TrainingData(params, layout)
    tasks, held_out = own.caption_retrieval, material.validation_rows
    recalls = {"tfidf": tfidf_recalls(tasks, held_out)}
    train_apart(STAGE, env, layout.work(STAGE))

    encoder = load_base(material, env.device)
    held, spread = encoder.precision, {}
    recalls["base"], spread["base"] = llm_figures(encoder, tasks, held_out)
    members, apart = _members(material, encoder, env)
    share = trained_share(encoder)  # of one member
    trained, draws = join(members), material.draws * len(members)
    tell_spent(layout.work(STAGE), {"tuned": trained.spent})
    with output(layout, STAGE) as out:
        texts = CaptionTexts(held_out, held_out.columns)
        save_tuned(out.folder, trained.encoder, trained.adapter, own, texts)
        saved = load_tuned(out.folder, env.device, held)
        recalls["tuned"], spread["tuned"] = llm_figures(saved, tasks, held_out)
        points = [
            {"phase": number, **point}
            for number, history in enumerate(trained.histories, start=1)
            for point in history
        ]
        write_bytes(out.folder / "history.csv", history_csv(points, ["phase", "step", "loss"]))
        metrics = {
            **material.rows.figures(),
            **share,
            # what `auto` came to: machines that differ in it tune other weights, and equal ones say the same
            "precision": own.precision,
            "caption_retrieval": _by_task(recalls),
            "spread": _by_task(spread),
            "loads_in_sentence_transformers": (out.folder / "llm" / "modules.json").is_file(),
            "mntp": _losses(trained.masking),
            "members": apart,
            "phases": [_figures(*phase) for phase in zip(trained.histories, draws, strict=True)],
        }
        _check_gain(own, recalls, metrics, layout.work(STAGE) / "failed.json")
    write_metrics(layout, STAGE, metrics)


def train(params: Params, env: Environment) -> None:
    """Train with other processes; the checkpoint of the last step is what is left (`running.ranks`)."""
    material = TrainingData(params, Layout(env.work_store))
    for _ in tuned_members(material, load_base(material, env.device), env):
        pass


def _members(
    material: TrainingData, encoder: TextEncoder, env: Environment
) -> tuple[list[Trained], list[dict[str, float]]]:
    """Tune all members; return them and, of several, the recalls of each."""
    own = material.params.tune_llm
    members, apart = [], []
    for member in tuned_members(material, encoder, env):
        members.append(member)
        if own.members > 1:
            apart.append(llm_figures(member.encoder, own.caption_retrieval, material.validation_rows)[0])
            member.encoder.model.cpu()  # until the last one is tuned
    return members, apart


def _by_task(figures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Turn {who: {task: figure}} into {task: {who: figure}}."""
    return {task: {who: found[task] for who, found in figures.items()} for task in figures["tuned"]}


def _figures(history: History, pairs: PairDraws) -> dict[str, Any]:
    return {"rows": pairs.rows_by_kind(), "steps": pairs.phase.steps, **_losses(history)}


def _losses(history: History) -> dict[str, float | None]:
    ends = [history[0]["loss"], history[-1]["loss"]] if history else [None, None]
    return {"first_loss": ends[0], "last_loss": ends[1]}


def _check_gain(
    own: TuneLlm, recalls: dict[str, dict[str, float]], metrics: dict[str, Any], failed: Path
) -> None:
    """Stop below the limit, and leave the figures where DVC does not take them for the last good ones."""
    failed.unlink(missing_ok=True)
    name = own.caption_retrieval[0].name
    tuned, base = recalls["tuned"][name], recalls["base"][name]
    if tuned - base < own.min_caption_retrieval_gain:
        write_json(failed, metrics)
        raise GateError(
            f"caption retrieval {name}: recall_at_1 is {tuned:.3f} after tuning and {base:.3f} before; "
            f"tune_llm.min_caption_retrieval_gain asks for {own.min_caption_retrieval_gain:+g}: "
            f"change learning rate, steps or pairs ({failed} has the losses)"
        )
