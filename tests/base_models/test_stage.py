from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from components.base_models import captioner as captioner_module
from components.base_models.stage import run
from components.errors import ConfigurationError, DataError, Stopped
from components.ml.captioning.small import load_captioner, write_texts
from components.ml.captioning.vlm import load_vision_language
from components.ml.schedule import batch_rows
from components.ml.text.encoder import encode, load_text_encoder
from components.ml.vision.clip import image_embeddings, load_clip, load_clip_tokenizer, text_embeddings
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import read_json
from components.storage.manifest import folder_key
from tests.base_models.test_text_encoders import write_encoder
from tests.vision_language import write_llava, write_qwen2_vl

ARTIFACT = Path("artifacts/base_models")


@pytest.fixture
def tiny(smoke: Params) -> dict[str, Any]:
    """The smoke preset's tree with even less of everything."""
    tree = smoke.model_dump()
    section = tree["base_models"]
    section["checkpoint_steps"] = 2
    for name in ("llm", "clip", "captioner"):
        section[name]["training"] |= {"steps": 5, "batch_size": 4}
    for source in (section["llm"]["texts"][0], section["clip"]["texts"][0]):
        source["counts"] |= {"train": 30, "validation": 4}
    for name in ("clip", "captioner"):
        section[name]["scenes"]["counts"] |= {"train": 24, "validation": 4}
    return tree


def run_in(store: Path, tree: dict[str, Any]) -> str:
    run(Params.model_validate(tree), Environment(work_store=store))
    return folder_key(ARTIFACT)


def test_token_embeddings_may_start_from_what_stands_together(workspace: Path, tiny: dict[str, Any]) -> None:
    section = tiny["base_models"]["llm"]
    section["training"]["steps"] = 0
    how: dict[str, Any] = {
        "attention": "bidirectional", "pooling": "mean", "template": "{text}", "max_tokens": 64
    }  # fmt: skip
    weights: list[Tensor] = []
    for cooccurrence in (None, {"deviation": 0.2}, {"deviation": 0.2}):
        section["cooccurrence"] = cooccurrence
        run_in(workspace / f"{len(weights)}", tiny)
        encoder = load_text_encoder(ARTIFACT / "llm", **how)
        weights.append(encoder.model.get_input_embeddings().weight.detach())  # type: ignore[operator]
    random, started, again = weights
    assert torch.equal(started, again)
    (ids,) = encoder.tokenizer(["red circle"], add_special_tokens=False)["input_ids"]
    assert all(float(started[token].norm()) > 5 * float(random[token].norm()) for token in ids)
    special = encoder.tokenizer.all_special_ids  # stand in no caption
    assert torch.equal(started[special], random[special])


def test_makes_models_that_work_and_the_same_ones_again(workspace: Path, tiny: dict[str, Any]) -> None:
    first = run_in(workspace / "one", tiny)
    about = read_json(ARTIFACT / "about.json")
    assert {name: tree["trained"] for name, tree in about.items()} == dict.fromkeys(about, True)
    assert about["llm"]["held_out"]["perplexity"] < 512
    assert 0 <= about["clip"]["held_out"]["text_to_image_recall_at_1"] <= 1
    assert set(about["captioner"]["held_out"]) == {"scenes", "short", "dense"}
    metrics = read_json(Path("metrics/base_models.json"))
    assert metrics["rows_in"] == metrics["rows_out"] == 2 * (24 + 4) + 2 * (30 + 4)

    encoder = load_text_encoder(
        ARTIFACT / "llm", attention="bidirectional", pooling="mean", template="{text}", max_tokens=64
    )
    assert encode(encoder, ["a red circle"], 512).shape == (1, 32)
    clip, words = load_clip(ARTIFACT / "clip"), load_clip_tokenizer(ARTIFACT / "clip")
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    assert image_embeddings(clip, images).shape == text_embeddings(clip, words, ["a", "b"]).shape == (2, 32)
    captioner, words = load_captioner(ARTIFACT / "captioner")
    assert len(write_texts(captioner, words, images, "dense")) == 2

    assert run_in(workspace / "two", tiny) == first
    assert read_json(Path("metrics/base_models.json")) == metrics


def test_a_stopped_run_goes_on_and_ends_the_same(
    workspace: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tiny["base_models"]["clip"] |= {"scenes": None, "training": {**SCHEDULE, "steps": 0}}
    undisturbed = run_in(workspace / "one", tiny)

    def stopping(rows: int, batch_size: int, seed: int, step: int) -> Tensor:
        if step == 2:
            signal.raise_signal(signal.SIGTERM)
        return batch_rows(rows, batch_size, seed, step)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(captioner_module, "batch_rows", stopping)
        run_in(workspace / "two", tiny)
    caplog.set_level("INFO")
    caplog.clear()
    assert run_in(workspace / "two", tiny) == undisturbed
    assert "base_models captioner: resumed at step 3 of 5" in caplog.text
    assert "base_models llm" not in caplog.text


def test_a_new_captioner_leaves_the_others_alone(
    workspace: Path, tiny: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run_in(workspace / "one", tiny)
    caplog.set_level("INFO")
    caplog.clear()
    tiny["base_models"]["captioner"]["training"]["learning_rate"] = 0.001
    run_in(workspace / "one", tiny)
    assert "base_models captioner" in caplog.text
    assert "base_models clip" not in caplog.text
    assert "base_models llm" not in caplog.text
    tiny["base_models"]["captioner"] = None
    run_in(workspace / "one", tiny)
    assert not (ARTIFACT / "captioner").exists()


def test_captioners_of_others_are_brought_each_to_its_folder(workspace: Path, tiny: dict[str, Any]) -> None:
    section = tiny["base_models"]
    section["captioner"] = None
    section["clip"] |= {"scenes": None, "training": {**SCHEDULE, "steps": 0}}
    section["llm"]["training"]["steps"] = 0
    run_in(workspace / "one", tiny)
    about = read_json(ARTIFACT / "about.json")
    for name, write in (("llava", write_llava), ("qwen", write_qwen2_vl)):
        folder = workspace / "inputs" / "demo" / name
        folder.mkdir()
        write(folder)
        (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    section["vision_language"] = [
        {"name": name, "source": {"kind": "folder", "path": name}} for name in ("llava", "qwen")
    ]
    run_in(workspace / "one", tiny)
    brought = ARTIFACT / "vision_language"
    assert {path.name for path in brought.iterdir()} == {"llava", "qwen"}
    assert not list(brought.rglob("*.bin"))
    assert load_vision_language(brought / "qwen").model.config.model_type == "qwen2_vl"
    now = read_json(ARTIFACT / "about.json")
    assert set(now) - set(about) == {"vision_language/llava", "vision_language/qwen"}
    assert now["vision_language/llava"]["path"] == "llava"
    assert {name: now[name] for name in about} == about


def test_sentence_encoders_of_others_are_brought_each_to_its_folder(
    workspace: Path, tiny: dict[str, Any]
) -> None:
    section = tiny["base_models"]
    section["captioner"] = None
    section["clip"] |= {"scenes": None, "training": {**SCHEDULE, "steps": 0}}
    section["llm"]["training"]["steps"] = 0
    write_encoder(workspace / "inputs" / "demo" / "mine")
    section["text_encoders"] = [{"name": "tiny_bert", "source": {"kind": "folder", "path": "mine"}}]
    run_in(workspace / "one", tiny)
    folder = ARTIFACT / "text_encoders" / "tiny_bert"
    assert SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode("a dog").shape == (8,)
    assert read_json(ARTIFACT / "about.json")["text_encoders/tiny_bert"]["path"] == "mine"


def test_a_model_that_captions_nothing_is_refused(workspace: Path, tiny: dict[str, Any]) -> None:
    section = tiny["base_models"]
    section["captioner"] = None
    section["clip"] |= {"scenes": None, "training": {**SCHEDULE, "steps": 0}}
    section["llm"]["training"]["steps"] = 0
    run_in(workspace / "one", tiny)
    (ARTIFACT / "llm").rename(workspace / "inputs" / "demo" / "llm")
    section["vision_language"] = [{"name": "llm", "source": {"kind": "folder", "path": "llm"}}]
    with pytest.raises(ConfigurationError, match="vision_language/llm: llm cannot be used .*type llama"):
        run_in(workspace / "one", tiny)


def test_without_steps_the_weights_are_random_and_said_to_be(workspace: Path, tiny: dict[str, Any]) -> None:
    section = tiny["base_models"]
    section["captioner"] = None
    section["clip"] |= {"scenes": None, "image_size": 72, "training": {**SCHEDULE, "steps": 0}}
    section["llm"]["training"]["steps"] = 0
    run_in(workspace / "one", tiny)
    about = read_json(ARTIFACT / "about.json")
    assert [about[name]["trained"] for name in ("llm", "clip")] == [False, False]
    assert image_embeddings(
        load_clip(ARTIFACT / "clip"), torch.zeros(1, 3, 72, 72, dtype=torch.uint8)
    ).shape == (1, 32)


def test_texts_of_a_table_are_learned_from(workspace: Path, tiny: dict[str, Any]) -> None:
    rows = [("a", "train", "Ein Hund läuft."), ("b", "validation", "Eine Katze."), ("c", "test", "Geheim")]
    table = "\n".join(["id\tsplit\ttext", *("\t".join(row) for row in rows)])
    (workspace / "inputs/demo/texts.tsv").write_text(table + "\n")
    section = tiny["base_models"]
    section["llm"]["texts"] = [
        {
            "kind": "text_table",
            "name": "words",
            "path": "texts.tsv",
            "sha256": None,
            "key_column": "id",
            "split_column": "split",
            "split": None,
            "captions": [{"column": "text", "name": "text", "language": "de"}],
            "limit": None,
            "columns": None,
        }
    ]
    section["captioner"] = None
    section["clip"] |= {"scenes": None, "training": {**SCHEDULE, "steps": 0}}
    run_in(workspace / "one", tiny)
    about = read_json(ARTIFACT / "about.json")
    assert about["llm"]["held_out"]["texts"] == 1
    assert "hund" in (ARTIFACT / "llm/tokenizer.json").read_text()
    assert "geheim" not in (ARTIFACT / "llm/tokenizer.json").read_text()


def test_a_vocabulary_needs_train_texts(workspace: Path, tiny: dict[str, Any]) -> None:
    tiny["base_models"]["llm"]["texts"][0]["counts"] |= {"train": 0, "validation": 2}
    with pytest.raises(DataError, match="llm_texts hold no train caption"):
        run_in(workspace / "one", tiny)


SCHEDULE = {"steps": 5, "batch_size": 4, "learning_rate": 0.001, "warmup_steps": 1, "weight_decay": 0.0}
