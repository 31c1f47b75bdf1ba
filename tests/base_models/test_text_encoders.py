"""Sentence encoders of others: all parts come, each of a known kind, and what comes loads as it was."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from transformers import BertConfig, BertModel

from components.base_models.fetched import check_text_encoder, fetch
from components.base_models.model_builder import ModelBuilder
from components.errors import ConfigurationError
from components.ml.text.bpe import train_bpe
from components.running.rows import Rows
from components.settings.base_models import FolderModel
from components.storage.atomic import read_json
from components.storage.result_cache import put_files

SECTION = FolderModel(kind="folder", path="mine")
TEXTS = ["a red circle", "two blue squares and a dog"]


@pytest.fixture
def builder(tmp_path: Path) -> ModelBuilder:
    return ModelBuilder(tmp_path / "work", tmp_path / "inputs", 7, "cpu", 10, Rows())


def write_encoder(folder: Path) -> Path:
    """Write a tiny BERT with mean pooling, a linear layer and vectors of length 1."""
    backbone = folder.parent / "backbone"
    tokenizer = train_bpe(TEXTS, 64, 32, padding_side="right")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(backbone)
    tokenizer.save_pretrained(backbone)
    parts = [
        modules.Transformer(str(backbone)),
        modules.Pooling(16),
        modules.Dense(16, 8),
        modules.Normalize(),
    ]
    SentenceTransformer(modules=parts, device="cpu").save(str(folder))
    return folder


def brought(builder: ModelBuilder) -> Path:
    return fetch(SECTION, "text_encoders/mine", check_text_encoder, builder, with_modules=True)


def test_all_parts_come_and_give_the_same_vectors(builder: ModelBuilder, tmp_path: Path) -> None:
    source = write_encoder(builder.inputs / "mine")
    (source / "2_Dense" / "pytorch_model.bin").write_bytes(pickle.dumps("a pickle"))
    (source / "1_Pooling" / "modeling.py").write_text("raise SystemExit")
    (source / "onnx").mkdir()
    (source / "onnx" / "model.safetensors").write_bytes(b"of no part")
    put_files(brought(builder), tmp_path / "out")
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert {
        "modules.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
    } <= names
    assert not {name for name in names if name.startswith("onnx") or name.endswith((".bin", ".py"))}
    there, here = (
        SentenceTransformer(str(place), device="cpu", local_files_only=True).encode(TEXTS)
        for place in (source, tmp_path / "out")
    )
    assert (there == here).all()
    dense = 16 * 8 + 8
    assert read_json(tmp_path / "out" / "about.json")["parameters"] == dense + sum(
        weights.numel() for weights in BertModel.from_pretrained(source).parameters()
    )


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (0, {"type": "modeling_mine.Encoder"}, "names modeling_mine.Encoder in ''; expected Transformer"),
        (0, {"type": "subprocess.Transformer"}, "names subprocess.Transformer"),
        (1, {"path": "../../elsewhere"}, r"in '\.\./\.\./elsewhere'"),
        (0, {"path": "0_Transformer"}, "names no Transformer at the top"),
        (1, {"path": "5_Pooling"}, "its Pooling has no 5_Pooling/config.json"),
    ],
)
def test_parts_that_are_not_known_are_refused(
    builder: ModelBuilder, part: int, change: dict[str, str], message: str
) -> None:
    source = write_encoder(builder.inputs / "mine")
    named = json.loads((source / "modules.json").read_text())
    named[part] |= change
    (source / "modules.json").write_text(json.dumps(named))
    with pytest.raises(ConfigurationError, match=message):
        brought(builder)


def test_a_part_whose_weights_are_a_pickle_is_refused(builder: ModelBuilder) -> None:
    dense = write_encoder(builder.inputs / "mine") / "2_Dense"
    (dense / "model.safetensors").rename(dense / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match="its Dense has no 2_Dense/model.safetensors"):
        brought(builder)


def test_a_model_as_older_versions_wrote_it_loads(builder: ModelBuilder) -> None:
    source = write_encoder(builder.inputs / "mine")
    old = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(
            [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        )
    ]
    (source / "modules.json").write_text(json.dumps(old))  # 2_Normalize is no folder
    pooling = {
        "word_embedding_dimension": 16,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
    }
    (source / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (source / "sentence_bert_config.json").write_text('{"max_seq_length": 32, "do_lower_case": false}')
    model = SentenceTransformer(str(brought(builder)), device="cpu", local_files_only=True)
    assert (model.encode(TEXTS) ** 2).sum(axis=1) == pytest.approx([1.0, 1.0], abs=1e-5)


def without(path: Path, start: str) -> None:
    kept = {name: weight for name, weight in load_file(path).items() if not name.startswith(start)}
    save_file(kept, path, metadata={"format": "pt"})


def test_weights_that_are_missing_are_named_unless_nobody_uses_them(builder: ModelBuilder) -> None:
    path = write_encoder(builder.inputs / "mine") / "model.safetensors"
    without(path, "pooler.")
    assert brought(builder).is_dir()
    without(path, "encoder.layer.0.output.dense.")
    message = "2 weights are missing or of another shape, encoder.layer.0.output.dense.bias among them"
    with pytest.raises(ConfigurationError, match=message):
        brought(builder)


@pytest.mark.parametrize(
    ("text", "message"), [(None, "has no modules.json"), ("[{}]", "modules.json is damaged")]
)
def test_a_model_without_its_list_of_parts_is_refused(
    builder: ModelBuilder, text: str | None, message: str
) -> None:
    path = write_encoder(builder.inputs / "mine") / "modules.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ConfigurationError, match=f"mine:? {message}"):
        brought(builder)
