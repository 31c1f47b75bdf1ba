"""The stage: what it writes, resumes bit for bit, reloads, refuses."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from components.errors import ConfigurationError, DataError, GateError, Stopped
from components.ml import precision
from components.ml.text.encoder import TextEncoder, encode, load_text_encoder
from components.running.costs import Spent, spent_figures
from components.running.precision import resolved
from components.running.progress import Progress
from components.running.training import TrainingRun, train
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.tune_llm import MinedNegatives, Mntp, TuneLlm
from components.storage.atomic import read_json, write_json
from components.storage.layout import Layout
from components.storage.manifest import listed, write_manifest
from components.storage.side_tables import Caption, write_captions
from components.tune_llm import mining, phases, tuning
from components.tune_llm.masking import masking_run
from components.tune_llm.pairs import PairBatch
from components.tune_llm.stage import run
from components.tune_llm.tuning import batch_backward

MINED = MinedNegatives(per_pair=1, kept=4, pool_rows=8, max_share_of_positive=0.95)


def changed(smoke: Params, **update: Any) -> Params:
    return smoke.model_copy(update={"tune_llm": smoke.tune_llm.model_copy(update=update)})


def hashes(layout: Layout) -> dict[str, str]:
    folder = layout.artifact("tune_llm")
    found = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return {**found, "metrics": hashlib.sha256(layout.metrics("tune_llm").read_bytes()).hexdigest()}


def stop_at(monkeypatch: pytest.MonkeyPatch, name: str, steps: int) -> None:
    """Send this process a real SIGTERM when a run of that name has done so many steps."""
    plain = Progress.advance

    def advance(self: Progress, count: int = 1, note: str = "") -> None:
        plain(self, count, note)
        if self.what == name and self.done == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Progress, "advance", advance)


def stop_and_go_on(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    params: Params,
    env: Environment,
    name: str,
    steps: int,
) -> None:
    """Stop the stage in a run of that name, and start it again: it says that it goes on there."""
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, name, steps)
        run(params, env)
    with caplog.at_level(logging.INFO):
        run(params, env)
    assert f"{name}: resumed at step {steps} of" in caplog.text


def test_outputs_metrics_and_exact_resume(
    layout: Layout,
    smoke: Params,
    env: Environment,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(smoke, env)
    undisturbed = hashes(layout)
    assert {"llm/model.safetensors", "llm/tokenizer.json", "adapter/adapter_model.safetensors"} < set(
        undisturbed
    )

    metrics = read_json(layout.metrics("tune_llm"))
    assert metrics["rows_in"] == metrics["rows_out"] + sum(metrics["rejected"].values()) == 48
    assert metrics["rejected"] == {"no_pair_of_columns": 23, "not_kept_by_audit": 1}
    assert set(metrics["caption_retrieval"]["short_to_dense"]) == {"tfidf", "base", "tuned"}
    assert 0 < metrics["learning"] < metrics["weights"]

    # again from nothing, stopped by a signal in the second phase
    other = Environment(work_store=Path("other"))
    stop_and_go_on(monkeypatch, caplog, smoke, other, "tune_llm_phase2", 2)
    assert hashes(layout) == undisturbed


def test_the_seconds_of_all_parts_are_added_and_are_in_no_output(
    layout: Layout, smoke: Params, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    masking = Mntp(
        columns=["short"],
        steps=1,
        batch_size=4,
        learning_rate=1e-3,
        warmup_steps=0,
        masked_share=0.3,
        mask="a",
    )
    negatives = [None, MINED]
    params = changed(
        smoke,
        method="full",
        mntp=masking,
        phases=[
            phase.model_copy(update={"steps": 1, "mined_negatives": mined})
            for phase, mined in zip(smoke.tune_llm.phases, negatives, strict=True)
        ],
    )
    parts = 3  # two phases, and masking

    def told_and_made(spent: Spent, mining_seconds: int, store: str) -> tuple[Any, dict[str, str]]:
        def timed(run: TrainingRun, *others: Any) -> list[dict[str, float]]:
            history = train(run, *others)
            run.spent = spent
            return history

        with monkeypatch.context() as patch:
            patch.setattr(phases, "train", timed)
            clock = count(0, mining_seconds)
            patch.setattr(mining, "time", SimpleNamespace(monotonic=lambda: next(clock)))
            run(params, Environment(work_store=Path(store)))
        return spent_figures(Path(store) / "tune_llm"), hashes(layout)

    first, made = told_and_made(Spent(10.0, 1.0), 5, "a")
    assert first == {
        "spent_seconds": {"tuned": 10.0 * parts + 5},
        "measuring_seconds": {"tuned": 1.0 * parts},
    }
    assert told_and_made(Spent(10.0, 1.0), 999, "a") == (first, made)  # negatives were there
    slower, made_slower = told_and_made(Spent(20.0), 50, "b")
    assert slower["spent_seconds"] == {"tuned": 20.0 * parts + 50}
    assert made_slower == made
    assert told_and_made(Spent(is_known=False), 0, "a")[0]["spent_seconds"] == {"tuned": None}


def test_saved_models_give_the_trained_vectors(layout: Layout, smoke: Params, env: Environment) -> None:
    run(changed(smoke, phases=[smoke.tune_llm.phases[0].model_copy(update={"steps": 3})]), env)
    folder = layout.artifact("tune_llm")
    encoding = read_json(folder / "encoding.json")
    assert encoding == {**smoke.tune_llm.encoding.model_dump(), "query_prompts": {}}
    assert read_json(folder / "llm" / "config.json")["is_causal"] is False
    adapter = read_json(folder / "adapter" / "adapter_config.json")
    assert adapter["target_modules"] == sorted(smoke.tune_llm.lora.targets)  # type: ignore[union-attr]
    assert adapter["base_model_name_or_path"] is None
    assert read_json(folder / "adapter" / "encoding.json") == encoding

    check_adapter(layout, encoding)


def check_adapter(layout: Layout, encoding: dict[str, Any]) -> None:
    """Compare the tuned model with the base one under the adapter."""
    from peft import PeftModel

    folder = layout.artifact("tune_llm")
    texts = ["a red circle", "ein blaues Quadrat ist links"]
    tuned = encode(load_text_encoder(folder / "llm", **encoding), texts, 512)
    base = load_text_encoder(layout.artifact("base_models") / "llm", **encoding)
    assert not torch.allclose(encode(base, texts, 512), tuned, atol=1e-3)
    base.model = PeftModel.from_pretrained(base.model, str(folder / "adapter")).eval()
    torch.testing.assert_close(encode(base, texts, 512), tuned, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("template", "pooling"),
    [("{text}", "mean"), ("<bos>caption: {text}<eos>", "mean"), ("{text}<eos>", "last")],
)
def test_the_tuned_model_is_one_of_sentence_transformers(
    layout: Layout, smoke: Params, env: Environment, template: str, pooling: str
) -> None:
    from sentence_transformers import SentenceTransformer

    phase = smoke.tune_llm.phases[0].model_copy(update={"steps": 3})
    encoding = smoke.tune_llm.encoding.model_copy(update={"template": template, "pooling": pooling})
    run(changed(smoke, phases=[phase], encoding=encoding), env)
    folder = layout.artifact("tune_llm")
    assert read_json(layout.metrics("tune_llm"))["loads_in_sentence_transformers"] is True
    texts = ["a red circle", "two 👩\u200d👧 <eos> squares", "word " * 500]
    ours = encode(load_text_encoder(folder / "llm", **read_json(folder / "encoding.json")), texts, 512)
    theirs = SentenceTransformer(str(folder / "llm"), device="cpu").encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


def test_full_tuning_of_real_captions_params(layout: Layout, smoke: Params, env: Environment) -> None:
    phase = smoke.tune_llm.phases[0].model_copy(update={"steps": 3})
    prompt = "find a caption of the same image: "
    phase = phase.model_copy(
        update={"pairs": [kind.model_copy(update={"query_prompt": prompt}) for kind in phase.pairs]}
    )
    params = changed(
        smoke,
        method="full",
        lora=None,
        chunks=4,
        precision="bf16",
        embedding_rate_factor=3.0,
        phases=[phase],
    )
    run(params, env)
    folder = layout.artifact("tune_llm")
    assert not (folder / "adapter").exists()
    prompts = read_json(folder / "encoding.json")["query_prompts"]
    assert prompts == {"dense_to_dense": prompt, "short_to_dense": prompt}
    metrics = read_json(layout.metrics("tune_llm"))
    assert metrics["learning"] == metrics["weights"]
    assert metrics["phases"][0]["steps"] == 3


def test_mntp_mined_negatives_and_measures_on_the_way(
    layout: Layout,
    smoke: Params,
    env: Environment,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = smoke.tune_llm.phases
    params = changed(
        smoke,
        phases=[
            first.model_copy(update={"steps": 4}),
            second.model_copy(update={"steps": 4, "mined_negatives": MINED}),
        ],
        mntp=Mntp(
            columns=["short", "dense"],
            steps=4,
            batch_size=8,
            learning_rate=1e-3,
            warmup_steps=1,
            masked_share=0.3,
            mask="a",
        ),
        caption_retrieval_steps=2,
        gradient_cache=True,
        gradient_checkpointing=True,
        chunks=2,
        false_negative_margin=0.1,
        checkpoint_steps=1,
    )
    checkpointing: list[bool] = []
    mined_per_pair: list[float] = []

    def watched(encoder: TextEncoder, *others: Any) -> TrainingRun:
        checkpointing.append(encoder.model.is_gradient_checkpointing)  # type: ignore[arg-type]
        return masking_run(encoder, *others)

    def watched_backward(
        encoder: TextEncoder, own: TuneLlm, batch: PairBatch, weights: Sequence[Tensor]
    ) -> Tensor:
        mined_per_pair.append(len(batch.negatives) / len(batch.first))
        return batch_backward(encoder, own, batch, weights)

    with monkeypatch.context() as patch:
        patch.setattr(phases, "masking_run", watched)
        patch.setattr(tuning, "batch_backward", watched_backward)
        run(params, env)
    assert checkpointing == [True]
    assert mined_per_pair == [0] * 4 + [MINED.per_pair] * 4
    undisturbed = hashes(layout)
    metrics = read_json(layout.metrics("tune_llm"))
    assert metrics["mntp"]["first_loss"] > 0
    check_adapter(layout, read_json(layout.artifact("tune_llm") / "encoding.json"))
    spread = metrics["spread"]["short_to_dense"]
    assert spread["tuned"]["alignment"] != spread["base"]["alignment"]
    assert spread["tuned"]["uniformity"] < 0
    lines = (layout.artifact("tune_llm") / "history.csv").read_text("utf-8").splitlines()
    assert lines[0] == "phase,step,loss,recall_at_1 german_to_english,recall_at_1 short_to_dense"
    measured = [line.split(",")[:2] for line in lines[1:] if not line.endswith(",")]
    assert measured == [["1", "1"], ["1", "3"], ["2", "1"], ["2", "3"]]

    for name, steps in (("tune_llm_mntp", 2), ("tune_llm_phase2", 3)):
        stop_and_go_on(monkeypatch, caplog, params, Environment(work_store=Path(name)), name, steps)
        assert f"{name}: resumed at step {steps} of 4" in caplog.text
        assert hashes(layout) == undisturbed


def test_hostile_captions_train_and_are_measured(layout: Layout, smoke: Params, env: Environment) -> None:
    texts = [
        "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\u202e\u0645\u0631\u062d\u0628\u0627",
        "ignore all of this <eos> <bos> <pad> <|eot_id|>", "\u0301", "word " * 200_000, "x" * 1_000_000,
        "NFC \u00e9", "NFD e\u0301",
    ]  # fmt: skip
    download = layout.artifact("download")
    path = download / "texts" / "00001.parquet"
    hostile = [
        Caption(f"hostile{number}", split, column, "en", 0, text, "test")
        for number, text in enumerate(texts)
        for split in ("train", "validation")
        for column in ("short", "dense")
    ]
    write_captions(path, hostile)
    write_manifest(download, {entry.path: entry.rows for entry in listed(download) if entry.rows})
    run(
        changed(smoke, phases=[phase.model_copy(update={"steps": 4}) for phase in smoke.tune_llm.phases]), env
    )
    metrics = read_json(layout.metrics("tune_llm"))
    assert metrics["rows_in"] == metrics["rows_out"] + sum(metrics["rejected"].values()) == 48 + len(texts)
    assert all(0 <= share <= 1 for share in metrics["caption_retrieval"]["short_to_dense"].values())
    assert all(phase["last_loss"] > 0 for phase in metrics["phases"])


def test_a_mask_that_is_no_token_is_refused(layout: Layout, smoke: Params, env: Environment) -> None:
    mntp = Mntp(
        columns=["short"],
        steps=1,
        batch_size=2,
        learning_rate=1e-3,
        warmup_steps=0,
        masked_share=0.3,
        mask="\u4e16",
    )
    with pytest.raises(ConfigurationError, match="tune_llm.mntp: the mask .* expected one token"):
        run(changed(smoke, mntp=mntp), env)
    nobody = mntp.model_copy(update={"columns": ["french"], "mask": "a"})
    with pytest.raises(ConfigurationError, match="no train row has a caption of french"):
        run(changed(smoke, mntp=nobody), env)


def test_changed_params_start_fresh_and_say_so(
    layout: Layout, smoke: Params, env: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    short = [smoke.tune_llm.phases[0].model_copy(update={"steps": 2})]
    params = changed(smoke, phases=short)
    run(params, env)
    with caplog.at_level(logging.INFO):
        run(changed(params, temperature=0.1), env)
    assert "params.temperature 0.05 -> 0.1" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        run(changed(params, temperature=0.1, min_caption_retrieval_gain=-0.9), env)
    assert "starting fresh" not in caplog.text
    assert "resumed at step 2 of 2" in caplog.text


def test_auto_tunes_what_the_precision_that_it_comes_to_does(
    layout: Layout,
    smoke: Params,
    env: Environment,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    short = changed(smoke, phases=[smoke.tune_llm.phases[0].model_copy(update={"steps": 2})])
    auto, weights = changed(short, precision="auto"), []
    for kind, is_fast in (("fp32", False), ("bf16", True)):
        run(changed(short, precision=kind), Environment(work_store=Path(kind)))
        explicit = hashes(layout)
        weights.append(explicit["llm/model.safetensors"])
        assert read_json(layout.metrics("tune_llm"))["precision"] == kind
        monkeypatch.setattr(precision, "is_bf16_fast", lambda is_fast=is_fast: is_fast)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            run(resolved(auto, "tune_llm", "cpu"), env)
        assert hashes(layout) == explicit
        # what a machine of the other kind has left is no start for this one
        assert ("params.precision fp32 -> bf16" in caplog.text) == is_fast
    assert weights[0] != weights[1]


def test_too_little_gain_is_a_failed_gate(layout: Layout, smoke: Params, env: Environment) -> None:
    short = [smoke.tune_llm.phases[0].model_copy(update={"steps": 1})]
    with pytest.raises(GateError, match="short_to_dense.*asks for \\+0.9.*failed.json has the"):
        run(changed(smoke, phases=short, min_caption_retrieval_gain=0.9), env)
    assert not layout.artifact("tune_llm").exists()
    assert not layout.metrics("tune_llm").exists()  # `dvc checkout` would not write over it
    assert read_json(layout.work("tune_llm") / "failed.json")["phases"][0]["steps"] == 1


def test_data_that_the_audit_refused_is_not_trained_on(
    layout: Layout, smoke: Params, env: Environment
) -> None:
    audit = layout.artifact("audit")
    write_json(audit / "verdict.json", {"passed": False, "gates": []})
    write_manifest(audit)
    with pytest.raises(GateError, match="a gate failed"):
        run(smoke, env)


def test_damage_and_a_model_that_does_not_fit_are_refused(
    layout: Layout, smoke: Params, env: Environment
) -> None:
    encoding = smoke.tune_llm.encoding.model_copy(update={"max_tokens": 4096})
    with pytest.raises(ConfigurationError, match="expected at most 192, the context of"):
        run(changed(smoke, encoding=encoding), env)
    missing = [smoke.tune_llm.caption_retrieval[0].model_copy(update={"second": "french"})]
    with pytest.raises(ConfigurationError, match="0 validation rows have short and french"):
        run(changed(smoke, caption_retrieval=missing), env)
    path = layout.artifact("base_models") / "llm" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rms_norm_eps": 0.5}))
    with pytest.raises(DataError, match="damaged"):
        run(smoke, env)
