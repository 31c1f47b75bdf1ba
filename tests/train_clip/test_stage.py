from __future__ import annotations

import csv
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from safetensors.torch import load_file

from components.errors import ConfigurationError, DataError, GateError, Stopped
from components.evaluate.models import LlmModel, Model, OwnTextModel
from components.ml import precision
from components.ml.adapter import load_adapter
from components.ml.losses.contrastive import captions_loss
from components.ml.metrics import true_ranks
from components.ml.vision.clip import load_clip, load_clip_tokenizer
from components.ml.vision.towers import load_vision_encoder
from components.running.costs import SECONDS, Spent, spent_figures
from components.running.held_out import HeldOutVectors, read_held_out, task_captions
from components.running.precision import resolved
from components.running.rows import Rows
from components.settings.environment import Environment
from components.settings.evaluate import RetrievalTask
from components.settings.params import Params
from components.settings.train_clip import Arm, ValidationSettings
from components.storage.atomic import read_json, sha256_of, write_json
from components.storage.embeddings import EMBEDDED_CAPTIONS, read_vectors, write_embeddings
from components.storage.layout import Layout
from components.storage.manifest import read_manifest, write_manifest
from components.storage.mapped_rows import MappedRows
from components.storage.side_tables import read_keys, write_keys
from components.train_clip import arms, stage, training
from components.train_clip.texts import CachedTexts
from components.train_clip.training import train_arm
from tests.clip_project import CONTEXT, COUNTS, SIZE, make_artifacts, small

OUT = Path("artifacts/train_clip")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upstream")
    make_artifacts(Layout(Path(".work"), folder))
    return folder


@pytest.fixture
def project(workspace: Path, made: Path) -> Layout:
    shutil.copytree(made / "artifacts", workspace / "artifacts")
    return Layout(Path(".work"))


@pytest.fixture
def params(smoke: Params) -> Params:
    return small(smoke)


def changed(params: Params, **values: Any) -> Params:
    return params.model_copy(update={"train_clip": params.train_clip.model_copy(update=values)})


def hashes() -> dict[str, str]:
    return {entry.uri: entry.sha256 for entry in read_manifest(OUT)}


def _contexts(params: Params) -> dict[str, int]:
    arms = params.train_clip.arms
    return {arm.name: arm.context_tokens for arm in arms if arm.context_tokens and arm.text == "own"}


def only(params: Params, *names: str) -> Params:
    return changed(params, arms=[arm for arm in params.train_clip.arms if arm.name in names])


def test_false_negatives_are_told_by_the_tuned_embeddings_for_every_arm(
    project: Layout, params: Params, env: Environment
) -> None:
    stage.run(params, env)
    before = hashes()
    stage.run(changed(params, false_negative_cosine=1.0), env)
    strict = hashes()
    stage.run(changed(params, false_negative_cosine=0.0), env)  # nearly all are left out
    loose = hashes()
    weights = [name for name in before if name.endswith("model.safetensors")]
    assert len(weights) >= 6
    assert [name for name in weights if not before[name] != loose[name] != strict[name]] == []
    losses = read_json(project.metrics("train_clip"))["arms"]
    assert all(arm["final_loss"] < 2.0 for arm in losses.values()), losses


def test_all_arms_train_and_load(project: Layout, params: Params, env: Environment) -> None:
    before = sha256_of(project.artifact("embed_captions") / "tuned" / "dense" / "00000.safetensors")
    stage.run(params, env)
    for name in ("llm2clip", "llm2clip_untuned"):
        encoder = load_vision_encoder(OUT / name / "vision_encoder")
        assert encoder.config.projection_dim == 16  # type: ignore[union-attr]
        assert load_adapter(OUT / name / "text_adapter").config.output_dim == 16
    for name, context in _contexts(params).items():
        assert load_clip(OUT / name / "clip").config.text_config.max_position_embeddings == context
        assert load_clip_tokenizer(OUT / name / "clip").model_max_length == context
        assert read_json(OUT / name / "model.json")["context_tokens"] == context
    assert [arm["name"] for arm in read_json(OUT / "arms.json")] == [
        arm.name for arm in params.train_clip.arms
    ]
    assert (OUT / "history" / "clip.csv").read_text().startswith("step,loss\n0,")
    metrics = read_json(project.metrics("train_clip"))
    assert metrics["rows_in"] == metrics["rows_out"] == COUNTS["train"]
    assert metrics["arms"]["llm2clip"]["steps"] == 6
    assert metrics["arms"]["llm2clip"]["final_loss"] < 10
    assert 1 <= metrics["arms"]["clip"]["logit_scale"] <= 100
    assert sha256_of(project.artifact("embed_captions") / "tuned" / "dense" / "00000.safetensors") == before


def test_the_same_again_has_the_same_bytes_and_trains_nothing(
    project: Layout, params: Params, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(only(params, "llm2clip", "clip"), env)
    first = hashes()
    shutil.rmtree(".work")
    stage.run(only(params, "llm2clip", "clip"), env)
    assert hashes() == first
    trained: list[str] = []

    def remember(_arm: Any, own: Arm, *_: Any) -> tuple[list[dict[str, float]], Spent]:
        trained.append(own.name)
        return [], Spent()

    monkeypatch.setattr(stage, "train_arm", remember)
    stage.run(only(params, "llm2clip", "clip"), env)
    assert hashes() == first
    assert trained == []
    stage.run(only(params, "llm2clip", "clip", "clip_long"), env)
    assert trained == ["clip_long"]


def test_a_test_row_that_is_gone_trains_nothing(
    project: Layout, params: Params, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(params, env)
    before = hashes()
    embeddings, kept = project.artifact("embed_captions"), project.artifact("audit") / "kept"
    for path in sorted(kept.iterdir()):
        write_keys(path, sorted(key for key in read_keys(path) if not key.startswith("test")))
    files = sorted(embeddings.glob("*/*/*.safetensors"))
    changed_files = 0
    for path in files:
        about, vectors, table = read_vectors(path, EMBEDDED_CAPTIONS, "")
        table = table.filter(pc.not_equal(table["split"], "test"))
        rows, places = np.unique(table["row"].to_numpy(), return_inverse=True)
        changed_files += len(rows) < len(vectors)
        table = table.set_column(table.schema.get_field_index("row"), "row", pa.array(places, pa.int64()))
        write_embeddings(path.parent, path.stem, about, table, vectors[rows])
    assert changed_files
    for folder in (embeddings, project.artifact("audit")):
        write_manifest(folder)
    monkeypatch.setattr(stage, "train_arm", lambda *_: pytest.fail("an arm was trained"))
    stage.run(params, env)
    assert hashes() == before


def test_auto_trains_and_keeps_what_the_precision_that_it_comes_to_does(
    project: Layout, params: Params, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = only(params, "llm2clip")
    kept = {}
    for kind in ("fp32", "bf16"):
        stage.run(changed(params, precision=kind), env)
        kept[kind] = hashes()
        assert read_json(OUT / "llm2clip" / "model.json")["precision"] == kind
        assert read_json(project.metrics("train_clip"))["arms"]["llm2clip"]["precision"] == kind
    weights = "llm2clip/vision_encoder/model.safetensors"
    assert kept["fp32"][weights] != kept["bf16"][weights]
    machines = {"fp32": False, "bf16": True}
    auto = changed(params, precision="auto")
    with monkeypatch.context() as patch:
        patch.setattr(stage, "train_arm", lambda *_: pytest.fail("it was trained before"))
        for kind, is_fast in machines.items():
            patch.setattr(precision, "is_bf16_fast", lambda is_fast=is_fast: is_fast)
            stage.run(resolved(auto, "train_clip", "cpu"), env)
            assert hashes() == kept[kind]
    shutil.rmtree(".work")
    monkeypatch.setattr(precision, "is_bf16_fast", lambda: True)
    stage.run(resolved(auto, "train_clip", "cpu"), env)
    assert hashes() == kept["bf16"]
    shutil.rmtree(".work")
    with pytest.raises(KeyError, match="auto"):  # rather than in float32 under another key
        stage.run(auto, env)


def test_an_arms_seconds_are_kept_for_a_rerun_and_are_in_no_output(
    project: Layout, params: Params, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = only(params, "llm2clip", "clip")
    work = project.work("train_clip")

    def told_and_made(spent: Spent) -> tuple[dict[str, Any], dict[str, str], bytes]:
        with monkeypatch.context() as patch:
            patch.setattr(stage, "train_arm", lambda *given: (train_arm(*given)[0], spent))
            stage.run(params, env)
        return spent_figures(work), hashes(), project.metrics("train_clip").read_bytes()

    first, *made = told_and_made(Spent(26.123, 1.5))
    assert first == {
        "spent_seconds": {"llm2clip": 26.12, "clip": 26.12},
        "measuring_seconds": {"llm2clip": 1.5, "clip": 1.5},
    }
    (work / "spent.json").unlink()  # as a stage that starts does
    assert told_and_made(Spent(999.0)) == (first, *made)  # nothing was trained
    shutil.rmtree(work)
    slower, *made_slower = told_and_made(Spent(52.0))
    assert slower["spent_seconds"] == {"llm2clip": 52.0, "clip": 52.0}
    assert made_slower == made
    assert not list(OUT.rglob(SECONDS))


def test_an_arm_of_an_earlier_version_has_unknown_seconds_and_is_not_trained_again(
    project: Layout, params: Params, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = only(params, "clip")
    stage.run(params, env)
    before = hashes()
    (piece,) = (project.work("train_clip") / "arms").iterdir()
    (piece / SECONDS).unlink()
    write_manifest(piece)
    monkeypatch.setattr(stage, "train_arm", lambda *_: pytest.fail("an arm was trained"))
    stage.run(params, env)
    assert hashes() == before
    assert spent_figures(project.work("train_clip"))["spent_seconds"] == {"clip": None}


@pytest.mark.parametrize("name", ["llm2clip", "clip"])
def test_stopped_and_resumed_equals_undisturbed(
    project: Layout, params: Params, env: Environment, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    params = only(
        changed(
            params,
            adapter=params.train_clip.adapter.model_copy(update={"dropout": 0.3, "standardise": True}),
            augmentation=params.train_clip.augmentation.model_copy(
                update={"min_crop": 0.5, "flip": True, "colour_jitter": 0.2}
            ),
        ),
        name,
    )
    stage.run(params, env)
    undisturbed = hashes()
    shutil.rmtree(".work")

    loss, calls = captions_loss, []

    def stopping(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(*arguments)

    monkeypatch.setattr(training, "captions_loss", stopping)
    with pytest.raises(Stopped):
        stage.run(params, env)
    stage.run(params, env)
    assert len(calls) == params.train_clip.arms[0].steps
    assert hashes() == undisturbed


def test_a_changed_param_starts_fresh(
    project: Layout,
    params: Params,
    env: Environment,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    params = only(params, "clip")
    loss, calls = captions_loss, []

    def stopping(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(*arguments)

    monkeypatch.setattr(training, "captions_loss", stopping)
    with pytest.raises(Stopped):
        stage.run(params, env)
    stage.run(changed(params, weight_decay=0.2), env)
    assert len(calls) == 4 + params.train_clip.arms[0].steps
    assert "params.weight_decay 0.05 -> 0.2" in caplog.text
    after_a_stop = hashes()
    shutil.rmtree(".work")
    stage.run(changed(params, weight_decay=0.2), env)
    assert hashes() == after_a_stop


TASKS = [RetrievalTask(name=name, column=name, language="en") for name in ("short", "dense")]


def validated(params: Params, keep: str) -> Params:
    tree = {"steps": 2, "recall_at": 1, "keep": keep, "retrieval": [task.model_dump() for task in TASKS]}
    return changed(params, validation=ValidationSettings.model_validate(tree))


@pytest.mark.parametrize("keep", ["last", "best"])
def test_validation_is_measured_on_the_way_with_the_weights_that_are_kept(
    project: Layout, params: Params, env: Environment, keep: str
) -> None:
    params = only(validated(params, keep), "llm2clip", "clip")
    stage.run(params, env)
    vectors = HeldOutVectors(
        project,
        "tuned",
        params.embed_captions,
        {"short", "dense"},
        Path(".work/train_clip"),
        "validation",
        False,
    )
    held_out = read_held_out(project, "validation", Path(".work/train_clip"), SIZE, Rows(), with_labels=False)
    models: dict[str, Model] = {
        "llm2clip": LlmModel(OUT / "llm2clip", vectors, "cpu"),
        "clip": OwnTextModel(OUT / "clip" / "clip", "cpu"),
    }
    for name, model in models.items():
        with (OUT / "history" / f"{name}.csv").open() as file:
            lines = [line for line in csv.DictReader(file) if line["mean"]]
        assert [int(line["step"]) for line in lines] == [1, 3, 5]
        about = read_json(OUT / name / "model.json")
        means = [float(line["mean"]) for line in lines]
        kept = means.index(max(means)) if keep == "best" else 2
        assert about["kept_step"] == [2, 4, 6][kept]
        assert about["validation"].pop("recall_at") == 1
        assert about["validation"] == {key: float(lines[kept][key]) for key in about["validation"]}
        images = model.images(held_out)
        for task in TASKS:
            of_task = task_captions(held_out, task, "")
            ranks = true_ranks(model.captions(of_task.captions), images, of_task.owners, torch.arange(6))
            figure = about["validation"][f"{task.name}/text_to_image"]
            assert figure == pytest.approx((ranks == 0).double().mean().item(), abs=1e-6)


def test_validation_measures_the_recall_that_params_name(
    project: Layout, params: Params, env: Environment
) -> None:
    params = only(validated(params, "last"), "llm2clip")
    figures = []
    for k in (1, 3, COUNTS["validation"]):
        validation = params.train_clip.validation.model_copy(update={"recall_at": k})
        stage.run(changed(params, validation=validation), env)
        figures.append(read_json(OUT / "llm2clip" / "model.json")["validation"])
    assert [found.pop("recall_at") for found in figures] == [1, 3, COUNTS["validation"]]
    first, third, all_of_them = figures
    assert all(first[name] <= third[name] for name in first) and first != third
    assert {all_of_them[f"{task.name}/text_to_image"] for task in TASKS} == {1.0}  # of so many images


def test_measuring_changes_no_weight(project: Layout, params: Params, env: Environment) -> None:
    stage.run(only(params, "llm2clip"), env)
    before = hashes()
    stage.run(only(validated(params, "last"), "llm2clip"), env)
    measured = hashes()
    assert [name for name in before if name.endswith(".safetensors") and before[name] != measured[name]] == []
    assert before["history/llm2clip.csv"] != measured["history/llm2clip.csv"]


def test_a_validation_task_without_captions_is_told_before_any_arm_trains(
    project: Layout, params: Params, env: Environment
) -> None:
    nobody = RetrievalTask(name="french", column="short_fr", language="fr")
    validation = ValidationSettings(steps=2, recall_at=1, keep="last", retrieval=[nobody])
    with pytest.raises(
        ConfigurationError,
        match=r"train_clip\.validation\.retrieval french reads column short_fr in fr, and no validation row",
    ):
        stage.run(changed(params, validation=validation), env)
    assert not Path(".work/train_clip/checkpoints").exists()


def test_arms_see_the_same_images_however_many_captions_they_take(
    project: Layout, params: Params, env: Environment
) -> None:
    settings = params.train_clip.model_copy(
        update={"augmentation": params.train_clip.augmentation.model_copy(update={"min_crop": 0.5})}
    )
    examples = stage._examples(project, settings, SIZE, Rows())
    plain = settings.arms[0]
    several = plain.model_copy(update={"captions_per_image": 3, "caption_negatives": 5})
    batches = []
    for arm in (plain, several):
        torch.manual_seed(3)
        batches.append(training.draw_batch(examples, arm, settings, 7, 1))
    assert torch.equal(batches[0].images, batches[1].images)
    assert torch.equal(batches[0].captions, batches[1].captions[:24:3])
    owners = np.repeat(np.arange(len(examples)), examples.mix.counts.sum(dim=1))
    assert owners[batches[1].captions[:24]].tolist() == batches[1].rows.repeat_interleave(3).tolist()
    assert owners[batches[1].captions[24:]].tolist() == batches[1].negative_rows.tolist()
    assert len(batches[1].negative_rows) == 5


def test_crops_are_cut_from_pictures_of_the_size_that_is_asked_for(
    project: Layout, params: Params, env: Environment
) -> None:
    def with_size(size: int | None) -> Params:
        look = params.train_clip.augmentation.model_copy(update={"min_crop": 0.5, "picture_size": size})
        return only(changed(params, augmentation=look), "llm2clip")

    larger = with_size(SIZE + SIZE // 2)
    examples = stage._examples(project, larger.train_clip, SIZE, Rows())
    batch = training.draw_batch(examples, larger.train_clip.arms[0], larger.train_clip, 7, 1)
    assert batch.images.shape[-2:] == (SIZE, SIZE)
    assert examples.pixels.batch(torch.tensor([0])).shape[-1] == SIZE + SIZE // 2
    weights = []
    for asked in (with_size(None), larger):
        stage.run(asked, env)
        weights.append(hashes()["llm2clip/vision_encoder/model.safetensors"])
    assert weights[0] != weights[1]
    for wrong in (SIZE - 1, 2 * SIZE + 1):
        with pytest.raises(
            ConfigurationError,
            match=rf"picture_size is {wrong} .* takes {SIZE} .*{SIZE} to {2 * SIZE}: fix params",
        ):
            stage.run(with_size(wrong), env)


def test_several_captions_and_negatives_train_both_kinds_of_arm(
    project: Layout, params: Params, env: Environment
) -> None:
    own = only(params, "llm2clip", "clip").train_clip.arms
    several = [arm.model_copy(update={"captions_per_image": 3, "caption_negatives": 5}) for arm in own]
    stage.run(changed(params, arms=own), env)
    before = read_json(OUT / "llm2clip" / "model.json")
    stage.run(changed(params, arms=several), env)
    after = read_json(OUT / "llm2clip" / "model.json")
    assert before["images_seen"] == after["images_seen"] == 6 * 8
    assert before["flops"] < after["flops"] < 2 * before["flops"]  # images are most of it
    clip = read_json(OUT / "clip" / "model.json")
    assert clip["flops"] > after["flops"]  # it pays for its captions


def test_a_column_that_is_not_there(project: Layout, params: Params, env: Environment) -> None:
    with pytest.raises(
        ConfigurationError, match=r"names tiny_dense, .*alt, dense, dense_de, short, short_de"
    ):
        stage.run(changed(params, caption_mix={"alt": 0.5, "tiny_dense": 0.5}), env)


def test_a_failed_audit_stops(project: Layout, params: Params, env: Environment) -> None:
    folder = project.artifact("audit")
    write_json(folder / "verdict.json", {"passed": False, "gates": []})
    write_manifest(folder)
    with pytest.raises(GateError, match="did not pass"):
        stage.run(params, env)


def test_a_projection_that_does_not_fit(project: Layout, params: Params, env: Environment) -> None:
    with pytest.raises(ConfigurationError, match="projection_dim"):
        stage.run(changed(params, new_projection=False, projection_dim=17), env)


def test_nan_in_a_gradient_saves_no_checkpoint(
    project: Layout, params: Params, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, calls = captions_loss, []

    def poisoned(images: torch.Tensor, texts: torch.Tensor, *more: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            texts.register_hook(lambda gradient: gradient * float("nan"))
        return loss(images, texts, *more)

    monkeypatch.setattr(training, "captions_loss", poisoned)
    with pytest.raises(DataError, match="gradient's norm is nan at step 3"):
        stage.run(only(params, "llm2clip"), env)
    (checkpoint,) = Path(".work/train_clip/checkpoints/llm2clip").glob("0*")
    tensors = load_file(checkpoint / "tensors.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert not OUT.exists()


def test_gradients_reach_what_should_learn(project: Layout, params: Params, env: Environment) -> None:
    clip, settings = project.artifact("base_models") / "clip", params.train_clip
    scale = settings.arms[0].logit_scale
    vectors, rows = torch.randn(9, 24).half(), torch.arange(9)
    llm_arm = arms.LlmArm(clip, settings, scale, CachedTexts(MappedRows([vectors.numpy()]), rows, ""))
    own_arm = arms.OwnTextArm(clip, scale, None)
    assert own_arm.context_tokens == CONTEXT
    given: list[tuple[arms.Arm, Any]] = [
        (llm_arm, vectors[:3]),
        (own_arm, ["red circle", "blue", "blue"]),
    ]
    for arm, texts in given:
        image_rows = arm.embed_images(torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8))
        text_rows = arm.embed_texts(texts)
        captions_loss(image_rows, text_rows, arm.log_logit_scale.exp(), 1).backward()
        without = [name for name, parameter in arm.named_parameters() if parameter.grad is None]
        assert without == []
        assert torch.allclose(image_rows.norm(dim=1), torch.ones(3))
        assert torch.allclose(text_rows.norm(dim=1), torch.ones(3))
    assert vectors.grad is None


def test_long_captions_are_read_by_the_long_context_only(project: Layout, params: Params) -> None:
    clip, scale = project.artifact("base_models") / "clip", params.train_clip.arms[0].logit_scale
    start = "a red circle and a blue square and a green star and a grey ring " * 3
    texts = [f"{start} left", f"{start} right"]
    short, long = (arms.OwnTextArm(clip, scale, context).eval() for context in (None, 160))
    assert torch.equal(*short.embed_texts(texts))
    assert not torch.equal(*long.embed_texts(texts))


def test_rows_that_audit_dropped_are_counted(project: Layout, params: Params, env: Environment) -> None:
    from components.storage.side_tables import read_keys, write_keys

    path = project.artifact("audit") / "kept" / "00000.parquet"
    write_keys(path, sorted(read_keys(path))[2:])
    write_manifest(project.artifact("audit"))
    stage.run(only(params, "llm2clip"), env)
    metrics = read_json(project.metrics("train_clip"))
    assert metrics["rejected"] == {"not_kept": 2}
    assert metrics["rows_in"] == COUNTS["train"]


def test_two_arms_of_one_name_are_refused(params: Params) -> None:
    arm = params.train_clip.arms[0].model_dump()
    with pytest.raises(ValueError, match="used twice"):
        type(params.train_clip).model_validate({**params.train_clip.model_dump(), "arms": [arm, arm]})


def test_captions_grouped_by_length_are_embedded_as_one_by_one(
    project: Layout, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = project.artifact("base_models") / "clip"
    texts = [
        "red",
        "a circle",
        "a grey star and a cross",
        "a large red circle and a small blue square",
        "red",
    ]
    arm = arms.OwnTextArm(clip, params.train_clip.arms[0].logit_scale, 32).eval()
    together = arm.embed_texts(texts)
    monkeypatch.setattr(arms, "TEXT_CHUNK", 2)
    assert torch.allclose(arm.embed_texts(texts), together, atol=1e-6)
    singly = torch.cat([arm.embed_texts([text]) for text in texts])
    assert torch.allclose(singly, together, atol=1e-6)
    monkeypatch.setattr(arm.clip.config.text_config, "vocab_size", 7)
    with pytest.raises(ConfigurationError, match=r"base_models\.clip: .* the model knows 7 tokens"):
        arm.embed_texts(texts)
