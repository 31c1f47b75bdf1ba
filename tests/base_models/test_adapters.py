"""An adapter in the place of a model: told for folder, bucket and hub, with a command that merges it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from components.base_models import fetched
from components.base_models.fetched import check_llm, fetch
from components.base_models.model_builder import ModelBuilder
from components.cli.check import check
from components.errors import ConfigurationError
from components.running.model_weights import MERGE
from components.running.rows import Rows
from components.settings.base_models import BucketModel, FolderModel, HubModel
from components.settings.environment import Environment
from components.settings.params import Params
from tests.base_models.models import REVISION, into_cache, write_llama
from tests.cli.test_main import dvc_without_git

HUB = HubModel(kind="hub", id="someone/lora", revision=REVISION)
TOLD = "is a LoRA adapter of .*base, without that model's weights; expected a whole model: merge the two"


@pytest.fixture
def builder(tmp_path: Path) -> ModelBuilder:
    return ModelBuilder(tmp_path / "work", tmp_path / "inputs", 7, "cpu", 10, Rows())


def write_adapter(folder: Path, base: Path) -> Any:
    """Save an adapter as peft does; return what it is merged to."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(write_llama(base))
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload()


def test_an_adapter_in_a_folder_is_told_and_merged_by_the_command(
    builder: ModelBuilder, tmp_path: Path
) -> None:
    expected = write_adapter(builder.inputs / "mine", tmp_path / "base")
    with pytest.raises(ConfigurationError, match=f"mine {TOLD}"):
        fetch(FolderModel(kind="folder", path="mine"), "llm", check_llm, builder)
    words = shlex.split(MERGE)
    words[0] = sys.executable
    words[-2:] = [str(builder.inputs / "mine"), str(builder.inputs / "merged")]
    subprocess.run(words, check=True, capture_output=True)
    folder = fetch(FolderModel(kind="folder", path="merged"), "llm", check_llm, builder)
    merged = AutoModelForCausalLM.from_pretrained(folder)
    for name, weight in merged.state_dict().items():
        torch.testing.assert_close(weight, expected.state_dict()[name])


def test_an_adapter_in_a_bucket_is_told(
    builder: ModelBuilder, tmp_path: Path, s3: str, smoke: Params, workspace: Path
) -> None:
    write_adapter(tmp_path / "lora", tmp_path / "base")
    for path in (tmp_path / "lora").iterdir():
        boto3.resource("s3").Bucket(s3).upload_file(str(path), f"lora/{path.name}")
    section = BucketModel(kind="bucket", uri=f"s3://{s3}/lora", sha256="0" * 64)
    with pytest.raises(ConfigurationError, match=f"s3://{s3}/lora {TOLD}"):
        fetch(section, "llm", check_llm, builder)
    dvc_without_git(workspace)
    tree = smoke.model_dump()
    tree["base_models"]["llm"] = section.model_dump()
    with pytest.raises(ConfigurationError, match=rf"base_models\.llm: s3://{s3}/lora {TOLD}"):
        check(Params.model_validate(tree), Environment())


def test_an_adapter_in_a_folder_is_told_by_check(smoke: Params, env: Environment, workspace: Path) -> None:
    dvc_without_git(workspace)
    write_adapter(workspace / "inputs" / "demo" / "lora", workspace / "base")
    tree = smoke.model_dump()
    tree["base_models"]["llm"] = {"kind": "folder", "path": "lora"}
    with pytest.raises(ConfigurationError, match=rf"base_models\.llm: inputs/demo/lora {TOLD}"):
        check(Params.model_validate(tree), env)


def test_an_adapter_of_the_hub_is_told(
    builder: ModelBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    write_adapter(tmp_path / "lora", tmp_path / "base")
    into_cache(tmp_path / "lora", tmp_path / "hub", HUB.id)
    with pytest.raises(ConfigurationError, match=f"someone/lora at {REVISION} {TOLD}"):
        fetch(HUB, "llm", check_llm, builder)


@pytest.mark.parametrize(
    ("on_hub", "expected"),
    [
        (["README.md", "mine.gguf"], r"holds only mine\.gguf, which is for llama\.cpp, and no safetensors"),
        ([], "holds no weights and no safetensors"),  # the hub cannot be asked
    ],
)
def test_weights_of_the_hub_that_are_not_taken_are_named(
    builder: ModelBuilder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    on_hub: list[str],
    expected: str,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    source = write_llama(tmp_path / "made")
    (source / "model.safetensors").unlink()
    into_cache(source, tmp_path / "hub", HUB.id)
    if on_hub:
        monkeypatch.setattr(fetched, "names_on_hub", lambda _: on_hub)
    with pytest.raises(ConfigurationError, match=expected):
        fetch(HUB, "llm", check_llm, builder)
