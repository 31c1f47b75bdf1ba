"""base_models.clip from a folder: families as they are, and EVA02 checkpoints converted in the copy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from components.base_models.fetched import check_clip, fetch
from components.base_models.model_builder import ModelBuilder
from components.errors import ConfigurationError
from components.ml.vision.clip import (
    has_text_tower,
    load_clip,
    load_clip_tokenizer,
    save_clip,
    text_embeddings,
)
from components.running.rows import Rows
from components.settings.base_models import FolderModel
from components.storage.atomic import read_json, sha256_of
from tests.ml.slow_eva02 import EVA_CONFIG, TIMM_CONFIG, eva_checkpoint, write
from tests.ml.towers import TINY, as_timm, tiny_model, tiny_tokenizer

MINE = FolderModel(kind="folder", path="mine")
WORDS = ["a", "caption", "another", "longer", "red", "circle", ","]
SIZE = replace(TINY, vocabulary=len(WORDS) + 3)


@pytest.fixture
def builder(tmp_path: Path) -> ModelBuilder:
    return ModelBuilder(tmp_path / "work", tmp_path / "inputs", 7, "cpu", 10, Rows())


@pytest.fixture
def source(builder: ModelBuilder) -> Path:
    return builder.inputs / "mine"


def words_like_clips() -> PreTrainedTokenizerFast:
    """Return a vocabulary that ends in the start and the end token, as CLIP's does."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", *WORDS, "<start>", "<end>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>",
        special_tokens=[(token, vocabulary[token]) for token in ("<start>", "<end>")],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")


def test_an_eva02_checkpoint_is_converted_in_the_copy(builder: ModelBuilder, source: Path) -> None:
    write(source, eva_checkpoint(SIZE), EVA_CONFIG, "open_clip_config.json")
    words_like_clips().save_pretrained(source)
    before = {path.name: sha256_of(path) for path in source.iterdir()}
    folder = fetch(MINE, "clip", check_clip, builder)
    assert {path.name: sha256_of(path) for path in source.iterdir()} == before
    model, tokenizer = load_clip(folder), load_clip_tokenizer(folder)
    assert read_json(folder / "config.json")["model_type"] == "eva02_clip"
    assert text_embeddings(model, tokenizer, ["a red circle"]).shape == (1, TINY.projection)
    assert read_json(folder / "about.json")["parameters"] == sum(one.numel() for one in model.parameters())


def test_an_eva02_tower_alone_is_a_base(builder: ModelBuilder, source: Path) -> None:
    write(source, eva_checkpoint(SIZE, with_text=False), EVA_CONFIG)
    folder = fetch(MINE, "clip", check_clip, builder)
    assert not has_text_tower(folder)
    assert read_json(folder / "config.json")["model_type"] == "eva02_clip_vision_model"


def test_of_open_clips_and_timms_files_the_whole_clip_is_taken(builder: ModelBuilder, source: Path) -> None:
    whole = eva_checkpoint(SIZE)
    tower = {name: tensor for name, tensor in whole.items() if name.startswith("visual.")}
    write(source, as_timm(tower, ""), TIMM_CONFIG)
    (source / "weights.safetensors").rename(source / "model.safetensors")
    write(source, as_timm(whole, "visual.trunk."), {"model_cfg": {}}, "open_clip_config.json")
    (source / "weights.safetensors").rename(source / "open_clip_model.safetensors")
    words_like_clips().save_pretrained(source)
    folder = fetch(MINE, "clip", check_clip, builder)
    assert has_text_tower(folder)
    assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]
    assert read_json(folder / "about.json")["parameters"] == sum(
        one.numel() for one in load_clip(folder).parameters()
    )


def test_an_eva02_with_texts_needs_its_tokenizer(builder: ModelBuilder, source: Path) -> None:
    write(source, eva_checkpoint(SIZE), EVA_CONFIG)
    with pytest.raises(ConfigurationError, match="mine cannot be used .*has no tokenizer that loads"):
        fetch(MINE, "clip", check_clip, builder)


def test_a_pickle_of_eva_clip_is_to_be_converted(builder: ModelBuilder, source: Path) -> None:
    write(source, eva_checkpoint(SIZE), EVA_CONFIG)
    (source / "weights.safetensors").rename(source / "EVA02_CLIP_B_psz16_s8B.pt")
    with pytest.raises(ConfigurationError, match=r"only EVA02_CLIP_B_psz16_s8B\.pt, .*convert it"):
        fetch(MINE, "clip", check_clip, builder)


@pytest.mark.parametrize("family", ["siglip", "eva02_l14", "clip_l14_336"])
def test_other_families_are_taken_as_they_are(builder: ModelBuilder, source: Path, family: str) -> None:
    tokenizer = tiny_tokenizer()
    save_clip(tiny_model(family, tokenizer), source)
    tokenizer.save_pretrained(source)
    folder = fetch(MINE, "clip", check_clip, builder)
    assert sha256_of(folder / "model.safetensors") == sha256_of(source / "model.safetensors")
