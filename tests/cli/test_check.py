"""What is told before anything runs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch

from components.cli.check import check
from components.cli.check_gates import gate_lines
from components.errors import ConfigurationError
from components.running import gpus
from components.running.workers import usable_cores
from components.settings.environment import Environment
from components.settings.params import Params
from tests.cli.test_main import dvc_without_git
from tests.recaption.test_given_captions import MINE, source_of
from tests.sources.reading import urls
from tests.sources.test_shard_rows import shards

PROMPTED: dict[str, Any] = {
    "name": "far",
    "model": "florence",
    "prompts": {"short": "Describe it."},
    "max_new_tokens": {"short": 9},
    "temperature": 0.0,
    "language": "en",
    "splits": ["train"],
}
REQUESTS: dict[str, Any] = {
    "deadline_seconds": 1.0,
    "retries": 0,
    "backoff_seconds": 1.0,
    "max_retry_after_seconds": 1.0,
    "connections": 1,
    "max_failures_in_a_row": 1,
    "retry_rounds": 0,
}
ENDPOINT = {**PROMPTED, "kind": "endpoint", "revision": "1", "requests": REQUESTS}
VLLM = {**PROMPTED, "kind": "vllm", "context_tokens": 512, "precision": "bf16"}


@pytest.fixture
def project(workspace: Path) -> Path:
    dvc_without_git(workspace)
    return workspace


def changed(smoke: Params, captioner: dict[str, Any], *models: str) -> Params:
    tree = smoke.model_dump()
    tree["recaption"] |= {"captioners": [captioner], "scores": None}
    tree["train_clip"]["caption_mix"] = {"alt": 1.0}
    tree["base_models"]["vision_language"] = [
        {"name": name, "source": {"kind": "folder", "path": f"models/{name}"}} for name in models
    ]
    return Params.model_validate(tree)


def test_a_folder_without_git_is_told_before_dvc_stops(
    smoke: Params, env: Environment, project: Path
) -> None:
    config = project / ".dvc" / "config"
    config.write_text("")
    refused = "in no git repository; DVC needs one: run `git init`.*`dvc config core.no_scm true`"
    with pytest.raises(ConfigurationError, match=refused):
        check(smoke, env)
    (project / ".git").mkdir()  # as an interrupted `git init` leaves it
    with pytest.raises(ConfigurationError, match=refused):
        check(smoke, env)
    subprocess.run(["git", "init", "-q"], check=True)
    check(smoke, env)
    config.write_text("[core\n")
    with pytest.raises(ConfigurationError, match=r"DVC cannot read its settings .*fix \.dvc/config"):
        check(smoke, env)


def test_what_was_looked_at_is_said(smoke: Params, env: Environment, project: Path) -> None:
    said = check(smoke, env)
    assert "models: llm made, clip made" in said
    assert "captioners: tiny model" in said
    assert any(line.startswith("gates of tiny_short, by model, short: too_long, ") for line in said)


def test_the_gates_of_each_column_are_said(smoke: Params) -> None:
    columns = [*MINE["columns"], {"source": "raw", "column": "again", "take": "first", "splits": ["train"]}]
    tree = changed(smoke, {**MINE, "columns": columns}).model_dump()
    tree["download"]["sources"].append(source_of(by_model=True, kind="dense"))
    tree["recaption"]["captioners"] += [{**ENDPOINT, "prompts": {"short": "Describe it."}}]
    tree["recaption"]["gates"] |= {"whole_sentences": ["dense"], "max_images_per_text": {"dense": 3}}
    of_all = "too_long, control_characters, empty, prompt_leak, repeated, wrong_language"
    assert gate_lines(Params.model_validate(tree)) == [
        "gates of raw, by people: none",
        f"gates of long, by a model, dense: {of_all}, refusal, truncated, same_text",
        f"gates of dense, of long, by a model, dense: {of_all}, refusal, truncated, same_text",
        f"gates of again, of raw, by people: {of_all}",
        f"gates of far_short, by endpoint, short: {of_all}, refusal",
    ]


def test_a_gpu_that_stays_idle_is_told(
    smoke: Params, env: Environment, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"device: cpu, {usable_cores()} cores" in check(smoke, env)
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (project / "gpus" / name).mkdir(parents=True)
    monkeypatch.setattr(gpus, "DRIVER", project / "gpus")
    told = "; 2 GPUs are idle: LLM2CLIP_DEVICE=cuda uses them"
    assert f"device: cpu, {usable_cores()} cores{told}" in check(smoke, env)


def test_gpus_that_are_used_are_counted_and_none_is_a_fault(
    smoke: Params, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Environment(device="cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert "device: cuda, 8 GPUs" in check(smoke, cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigurationError, match=r"LLM2CLIP_DEVICE is cuda, and torch 2.* sees no GPU"):
        check(smoke, cuda)


def test_an_endpoint_without_its_address_is_named(smoke: Params, env: Environment, project: Path) -> None:
    with pytest.raises(
        ConfigurationError, match="far needs an endpoint, and LLM2CLIP_CAPTION_ENDPOINT is not"
    ):
        check(changed(smoke, ENDPOINT), env)
    there = Environment(caption_endpoint="http://localhost/v1")
    assert "captioners: far endpoint" in check(changed(smoke, ENDPOINT), there)


def test_vllm_that_is_not_installed_is_named(smoke: Params, env: Environment, project: Path) -> None:
    with pytest.raises(ConfigurationError, match="inputs/demo/models/florence not found"):
        check(changed(smoke, VLLM, "florence"), env)
    folder = project / "inputs" / "demo" / "models" / "florence"
    folder.mkdir(parents=True)
    with pytest.raises(
        ConfigurationError, match=r"vision_language\.0\.source: .*models/florence has no config"
    ):
        check(changed(smoke, VLLM, "florence"), env)
    (folder / "config.json").write_text("{}")
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).touch()
    with pytest.raises(ConfigurationError, match="far is of kind vllm, and vLLM is not installed"):
        check(changed(smoke, VLLM, "florence"), env)


def test_all_that_would_stop_a_later_stage_is_told_at_once(
    smoke: Params, env: Environment, project: Path
) -> None:
    Path("inputs/demo/list.csv").write_text("url,caption\nhttp://a/1,one\n")
    tree = changed(smoke, ENDPOINT).model_dump()
    tree["base_models"]["clip"] = {"kind": "folder", "path": "clip"}
    tree["download"]["sources"] += [urls("list.csv", url_column="link").model_dump()]
    tree["evaluate"]["retrieval"][0]["column"] = "shrt"
    tree["train_clip"]["caption_mix"]["far_dense"] = 1.0
    with pytest.raises(ConfigurationError) as fault:
        check(Params.model_validate(tree), env)
    lines = str(fault.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "base_models.clip.path",
        "download.sources.2.url_column",
        "recaption.captioners.0",
        "train_clip.caption_mix.far_dense",
        "evaluate.retrieval.0.column",
    ]
    assert all(line.startswith("params.yaml:") for line in lines)
    assert fault.value.exit_code == 2


def test_a_captioner_of_kind_model_needs_one_that_is_made(
    smoke: Params, env: Environment, project: Path
) -> None:
    base_models = smoke.base_models.model_copy(update={"captioner": None})
    with pytest.raises(
        ConfigurationError, match=r"captioners\.0: tiny is of kind model, and base_models\.cap"
    ):
        check(smoke.model_copy(update={"base_models": base_models}), env)


def test_a_captioner_names_a_model_of_base_models(smoke: Params) -> None:
    with pytest.raises(ValueError, match=r"captioner far needs florence in base_models\.vision_language"):
        changed(smoke, VLLM, "blip")
    with pytest.raises(ValueError, match="two models of one name"):
        changed(smoke, VLLM, "florence", "florence")
    with pytest.raises(ValueError, match="max_new_tokens is for dense, prompts for short; expected the same"):
        changed(smoke, VLLM | {"max_new_tokens": {"dense": 9}}, "florence")


def test_models_that_are_not_there_are_told(smoke: Params, env: Environment, project: Path, s3: str) -> None:
    def with_encoder(source: dict[str, str]) -> Params:
        tree = smoke.model_dump()
        tree["base_models"]["text_encoders"] = [{"name": "minilm", "source": source}]
        return Params.model_validate(tree)

    far = {"kind": "bucket", "uri": f"s3://{s3}/minilm", "sha256": "0" * 64}
    (project / "inputs" / "demo" / "x").mkdir()
    with pytest.raises(
        ConfigurationError, match=r"text_encoders\.0\.source: inputs/demo/x has no config\.json"
    ):
        check(with_encoder({"kind": "folder", "path": "x"}), env)
    with pytest.raises(
        ConfigurationError, match=rf"text_encoders\.0\.source: s3://{s3}/minilm has no config"
    ):
        check(with_encoder(far), env)
    with pytest.raises(ConfigurationError, match="s3://another-bucket/x: there is no such bucket"):
        check(with_encoder({**far, "uri": "s3://another-bucket/x"}), env)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        boto3.resource("s3").Object(s3, f"minilm/{name}").put(Body=b"{}")
    assert "models: llm made, clip made, minilm bucket" in check(with_encoder(far), env)


def test_a_checkpoint_of_open_clip_is_there(smoke: Params, env: Environment, project: Path) -> None:
    tree = smoke.model_dump()
    tree["base_models"]["clip"] = {"kind": "folder", "path": "eva02"}
    params = Params.model_validate(tree)
    (project / "inputs" / "demo" / "eva02").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match=r"clip: inputs/demo/eva02 has no config\.json"):
        check(params, env)
    (project / "inputs" / "demo" / "eva02" / "open_clip_config.json").write_text("{}")
    (project / "inputs" / "demo" / "eva02" / "model.safetensors").touch()
    assert "models: llm made, clip folder" in check(params, env)


def test_text_encoders_have_names_of_their_own(smoke: Params) -> None:
    tree = smoke.model_dump()
    model = {"name": "minilm", "source": {"kind": "folder", "path": "x"}}
    tree["base_models"]["text_encoders"] = [model, model]
    with pytest.raises(ValueError, match="text_encoders has two models of one name"):
        Params.model_validate(tree)


def test_a_bucket_of_shards_that_is_not_there_is_told(
    smoke: Params, env: Environment, project: Path, s3: str
) -> None:
    def with_shards(uri: str) -> Params:
        sources = [*smoke.download.sources, shards(path=uri)]
        download = smoke.download.model_copy(update={"sources": sources})
        return smoke.model_copy(update={"download": download})

    said = f"inputs: inputs/demo, 3 sources; {shards().name} is not checked: its shards are remote"
    assert said in check(with_shards(f"s3://{s3}/*.tar"), env)
    assert check(with_shards("https://nobody-asks.example/0.tar"), env)
    with pytest.raises(ConfigurationError, match="s3://another-bucket: there is no such bucket"):
        check(with_shards("s3://another-bucket/*.tar"), env)
