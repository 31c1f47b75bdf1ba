from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM

from components.base_models.fetched import check_clip, check_llm, fetch
from components.base_models.model_builder import ModelBuilder
from components.errors import ConfigurationError
from components.ml.text.encoder import encode, load_text_encoder
from components.running.model_weights import weights_in
from components.running.rows import Rows
from components.settings.base_models import FolderModel
from components.storage.atomic import read_json
from tests.base_models.models import write_llama


@pytest.fixture
def builder(tmp_path: Path) -> ModelBuilder:
    return ModelBuilder(tmp_path / "work", tmp_path / "inputs", 7, "cpu", 10, Rows())


class Canary:
    """A pickle that leaves a file behind when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def folder_model(name: str = "mine") -> FolderModel:
    return FolderModel(kind="folder", path=name)


def test_a_folder_is_copied_without_what_could_run(builder: ModelBuilder, tmp_path: Path) -> None:
    source = write_llama(builder.inputs / "mine")
    canary = tmp_path / "fired"
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(canary)))
    (source / "modeling_mine.py").write_text(f"open({str(canary)!r}, 'w')")
    folder = fetch(folder_model(), "llm", check_llm, builder)
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "about.json"} <= names
    assert not {"pytorch_model.bin", "modeling_mine.py"} & names
    assert not canary.exists()
    about = read_json(folder / "about.json")
    assert about["kind"] == "folder"
    assert about["parameters"] == sum(
        parameter.numel() for parameter in LlamaForCausalLM.from_pretrained(source).parameters()
    )
    encoder = load_text_encoder(
        folder, attention="bidirectional", pooling="mean", template="{text}", max_tokens=16
    )
    assert encode(encoder, ["a red circle"], 64).shape == (1, 16)
    (folder / "config.json").read_text()
    assert not (source / "config.json").samefile(folder / "config.json")


def test_only_a_pickle_is_refused_unread(builder: ModelBuilder, tmp_path: Path) -> None:
    source = write_llama(builder.inputs / "mine")
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(tmp_path / "fired")))
    with pytest.raises(ConfigurationError, match=r"only pytorch_model\.bin, which may run code"):
        fetch(folder_model(), "llm", check_llm, builder)
    assert not (tmp_path / "fired").exists()


def test_code_beside_a_model_is_never_run(builder: ModelBuilder, tmp_path: Path) -> None:
    source = write_llama(builder.inputs / "mine")
    config = json.loads((source / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (source / "config.json").write_text(json.dumps(config))
    (source / "mine.py").write_text(f"open({str(tmp_path / 'fired')!r}, 'w')")
    with pytest.raises(ConfigurationError, match="mine cannot be used"):
        fetch(folder_model(), "llm", check_llm, builder)
    assert not (tmp_path / "fired").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [("folder", "not found"), ("config.json", r"no config\.json"), ("weights", "no weights")],
)
def test_what_is_missing_is_named(builder: ModelBuilder, damage: str, message: str) -> None:
    if damage != "folder":
        source = write_llama(builder.inputs / "mine")
        (source / ("model.safetensors" if damage == "weights" else damage)).unlink()
    with pytest.raises(ConfigurationError, match=message):
        fetch(folder_model(), "llm", check_llm, builder)


def test_a_pointer_in_the_place_of_weights_is_no_model(builder: ModelBuilder) -> None:
    source = write_llama(builder.inputs / "mine")
    (source / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(ConfigurationError, match=r"mine cannot be used \(.*header"):
        fetch(folder_model(), "llm", check_llm, builder)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_index_is_named(builder: ModelBuilder, text: str) -> None:
    source = write_llama(builder.inputs / "mine")
    (source / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ConfigurationError, match="index.json is damaged"):
        fetch(folder_model(), "llm", check_llm, builder)


def test_a_missing_part_of_the_weights_is_named(builder: ModelBuilder) -> None:
    source = write_llama(builder.inputs / "mine")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigurationError, match="lacks model-00002-of-00002"):
        fetch(folder_model(), "llm", check_llm, builder)


@pytest.mark.parametrize("is_in_parts", [False, True])
def test_weights_that_are_there_twice_are_taken_once(builder: ModelBuilder, is_in_parts: bool) -> None:
    source = write_llama(builder.inputs / "mine")
    known = weights_in(source)
    shutil.copyfile(source / "model.safetensors", source / "consolidated.safetensors")
    if is_in_parts:
        model = LlamaForCausalLM.from_pretrained(source)
        (source / "model.safetensors").unlink()
        model.save_pretrained(source, max_shard_size="4KB")
    folder = fetch(folder_model(), "llm", check_llm, builder)
    names = [path.name for path in folder.glob("*.safetensors")]
    assert (len(names) > 1) == is_in_parts
    assert "consolidated.safetensors" not in names
    assert weights_in(folder) == read_json(folder / "about.json")["parameters"] == known


def test_a_language_model_is_no_clip(builder: ModelBuilder) -> None:
    write_llama(builder.inputs / "mine")
    with pytest.raises(ConfigurationError, match="a model of type llama; expected one of clip"):
        fetch(folder_model(), "clip", check_clip, builder)


def test_changed_weights_are_another_model(builder: ModelBuilder) -> None:
    write_llama(builder.inputs / "mine")
    first = fetch(folder_model(), "llm", check_llm, builder)
    assert fetch(folder_model(), "llm", check_llm, builder) == first
    write_llama(builder.inputs / "mine")
    assert fetch(folder_model(), "llm", check_llm, builder) != first


def test_a_released_llama_loads(builder: ModelBuilder, shared: Path) -> None:
    released = replace(builder, inputs=shared / "data" / "models")
    folder = fetch(folder_model("stories260K"), "llm", check_llm, released)
    encoder = load_text_encoder(
        folder, attention="bidirectional", pooling="mean", template="{text}", max_tokens=64
    )
    assert len(encode(encoder, ["once upon a time"], 64)) == 1
    assert read_json(folder / "about.json")["parameters"] > 200_000
