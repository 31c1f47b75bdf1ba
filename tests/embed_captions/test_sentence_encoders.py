"""Sentence encoders of others fill the same cache, and an arm learns from it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
import torch
from pydantic import ValidationError

from components.embed_captions import stage
from components.embed_captions.stage import run
from components.embed_captions.survey import check_room
from components.errors import ConfigurationError
from components.ml.text.sentence_encoder import SentenceEncoder
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.embeddings import read_embeddings
from components.storage.layout import Layout
from components.storage.manifest import write_manifest
from components.storage.side_tables import read_captions
from tests.base_models.test_text_encoders import write_encoder
from tests.embed_captions.test_stage import tuned  # noqa: F401 - a fixture
from tests.embedded import rows_of

MINE = {
    "kind": "sentence_transformers",
    "name": "other",
    "model": "mine",
    "batch_tokens": 64,
    "precision": "fp32",
}
SOURCE = {"name": "mine", "source": {"kind": "folder", "path": "mine"}}
TEXTS = ["a red circle", "two blue squares and a dog", "a", "a dog " * 40]


def with_mine(smoke: Params, **changes: Any) -> Params:
    tree = smoke.model_dump()
    tree["base_models"]["text_encoders"] = [SOURCE]
    tree["embed_captions"]["others"] = [MINE]
    for section, values in changes.items():
        tree[section] |= values
    return Params.model_validate(tree)


@pytest.fixture
def brought(tuned: Layout, tmp_path: Path) -> Layout:  # noqa: F811
    """The artifacts with a sentence encoder among the base models."""
    folder = tuned.artifact("base_models") / "text_encoders" / "mine"
    (tmp_path / "made").mkdir()
    folder.parent.mkdir()
    write_encoder(tmp_path / "made" / "mine").rename(folder)
    write_manifest(tuned.artifact("base_models"))
    return tuned


def test_its_vectors_are_those_of_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = write_encoder(tmp_path / "mine")
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)
    encoder, counts = SentenceEncoder(folder, "cpu", "fp32"), list[int]()
    found = encoder.encode(TEXTS, 40, counts.append)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert sum(counts) == len(TEXTS)
    assert len(counts) > 1
    lengths, is_cut = encoder.lengths(TEXTS)
    assert is_cut == [False, False, False, True]
    assert lengths[3] == 32


def test_what_follows_a_special_token_in_a_caption_counts(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "mine")
    encoder = SentenceEncoder(folder, "cpu", "fp32")
    for word in encoder._model.tokenizer.all_special_tokens:
        rows = encoder.encode([f"a {word} red", f"a {word} blue"], 40, lambda _: None)
        assert not torch.allclose(rows[0], rows[1])
        length, bare = encoder.lengths([f"a {word} red", "a red"])[0]
        assert length > bare + 1 or word == "<unk>"  # more than one token


def test_the_stage_fills_a_cache_by_it(brought: Layout, smoke: Params, env: Environment) -> None:
    run(with_mine(smoke), env)
    captions = read_captions(brought.artifact("recaption") / "captions" / "00000.parquet")
    dense = [caption for caption in captions if caption.column == "dense"]
    found = read_embeddings(brought.artifact("embed_captions") / "other", ["dense"], Path(".work"))
    assert found.about["encoder"] == "other"
    encoder = SentenceEncoder(brought.artifact("base_models") / "text_encoders" / "mine", "cpu", "fp32")
    expected = encoder.encode([caption.text for caption in dense], 1, lambda _: None)
    rows = [rows_of(found, "dense", [caption.key])[0][caption.number] for caption in dense]
    torch.testing.assert_close(found.vectors[torch.tensor(rows)].float(), expected, rtol=1e-3, atol=1e-3)


def test_what_was_loaded_to_be_measured_is_let_go_of(
    brought: Layout, smoke: Params, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, times = WeakSet[SentenceEncoder](), []
    start = SentenceEncoder.__init__

    def watched(self: SentenceEncoder, *arguments: Any) -> None:
        start(self, *arguments)
        loaded.add(self)
        times.append(1)

    def checked(count: float, folders: Iterable[Path]) -> None:
        gc.collect()
        assert not loaded
        check_room(count, folders)

    monkeypatch.setattr(SentenceEncoder, "__init__", watched)
    monkeypatch.setattr(stage, "check_room", checked)
    run(with_mine(smoke), env)
    assert len(times) == 2  # to be measured, and to embed


def test_an_absent_package_is_named(
    brought: Layout, smoke: Params, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigurationError, match=r"pip install -e \.\[sentence-transformers\]"):
        run(with_mine(smoke), env)


def test_params_know_who_embeds(smoke: Params) -> None:
    arm = {**smoke.train_clip.arms[0].model_dump(), "name": "mine", "text": "other"}
    arms = [*(one.model_dump() for one in smoke.train_clip.arms), arm]
    assert with_mine(smoke, train_clip={"arms": arms}).embed_captions.names[-1] == "other"
    with pytest.raises(ValidationError, match="register.arm is mine, whose texts other embeds; expected"):
        with_mine(smoke, train_clip={"arms": arms}, register={"arm": "mine"})
    with pytest.raises(ValidationError, match="arm mine needs other in embed_captions.llms or others"):
        with_mine(smoke, train_clip={"arms": arms}, embed_captions={"others": []})
    with pytest.raises(ValidationError, match="others other needs mine in base_models.text_encoders"):
        with_mine(smoke, base_models={"text_encoders": []})
    with pytest.raises(ValidationError, match="other names than tuned"):
        with_mine(smoke, embed_captions={"others": [{**MINE, "name": "tuned"}]})
