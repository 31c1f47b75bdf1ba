"""The hub's cache: it serves offline, and what is damaged in it is told before it is used."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from components.base_models.fetched import check_llm, check_text_encoder, fetch
from components.base_models.workshop import Workshop
from components.faults import ConfigurationFault, DataFault
from components.running.rows import Rows
from components.settings.base_models import HubModel
from components.storage.atomic import read_json
from tests.base_models.models import REVISION, into_cache, write_llama
from tests.base_models.test_text_encoders import write_encoder

LLAMA = HubModel(kind="hub", id="someone/llama", revision=REVISION)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path / "work", tmp_path / "inputs", 7, "cpu", 10, Rows())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # what the variable of this name says at the start
    return tmp_path / "hub"


def test_the_cache_serves_offline(workshop: Workshop, cache: Path, tmp_path: Path) -> None:
    into_cache(write_llama(tmp_path / "made"), cache, "someone/llama")
    folder = fetch(LLAMA, "llm", check_llm, workshop)
    assert read_json(folder / "about.json")["revision"] == REVISION
    assert not [path for path in folder.iterdir() if path.is_symlink()]
    other = HubModel(kind="hub", id="someone/llama", revision="f" * 40)
    with pytest.raises(ConfigurationFault, match=r"not in the hub's cache .*without HF_HUB_OFFLINE"):
        fetch(other, "llm", check_llm, workshop)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])  # by sha256, and as git hashes
def test_a_file_that_is_not_what_its_name_says_is_refused(
    workshop: Workshop, cache: Path, tmp_path: Path, name: str
) -> None:
    snapshot = into_cache(write_llama(tmp_path / "made"), cache, "someone/llama")
    blob = (snapshot / name).resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(DataFault, match=rf"{name} is damaged in the hub's cache.*remove .*{blob.name}"):
        fetch(LLAMA, "llm", check_llm, workshop)
    data[-1] ^= 1
    blob.write_bytes(data)
    assert fetch(LLAMA, "llm", check_llm, workshop).is_dir()


def test_a_blob_without_a_hash_is_refused(workshop: Workshop, cache: Path, tmp_path: Path) -> None:
    snapshot = into_cache(write_llama(tmp_path / "made"), cache, "someone/llama")
    (snapshot / "config.json").resolve().rename(tmp_path / "config.json")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(DataFault, match="expected a blob named by its hash"):
        fetch(LLAMA, "llm", check_llm, workshop)


def test_a_store_that_repositories_share_is_looked_through(
    workshop: Workshop, cache: Path, tmp_path: Path
) -> None:
    snapshot = into_cache(write_llama(tmp_path / "made"), cache, "someone/llama")
    blob = (snapshot / "model.safetensors").resolve()
    (cache / "blobs").mkdir()
    blob.rename(cache / "blobs" / "of_xet")
    blob.symlink_to("../../blobs/of_xet")
    assert fetch(LLAMA, "llm", check_llm, workshop).is_dir()


def test_a_cache_of_copies_has_nothing_to_compare(
    workshop: Workshop, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_llama(cache / "models--someone--llama" / "snapshots" / REVISION)
    assert fetch(LLAMA, "llm", check_llm, workshop).is_dir()
    assert "more are no links in the hub's cache: nothing to compare" in caplog.text


def test_parts_below_the_top_come_from_the_cache(workshop: Workshop, cache: Path, tmp_path: Path) -> None:
    snapshot = into_cache(write_encoder(tmp_path / "made"), cache, "someone/encoder")
    section = HubModel(kind="hub", id="someone/encoder", revision=REVISION)
    name = "text_encoders/mine"
    folder = fetch(section, name, check_text_encoder, workshop, with_modules=True)
    assert (folder / "1_Pooling" / "config.json").is_file()
    blob = (snapshot / "1_Pooling" / "config.json").resolve()
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(DataFault, match=r"1_Pooling/config\.json is damaged"):
        fetch(section, name, check_text_encoder, workshop, with_modules=True)


def test_an_id_that_is_none_is_named(workshop: Workshop) -> None:
    with pytest.raises(ConfigurationFault, match="an id of the hub"):
        fetch(HubModel(kind="hub", id="a/b/c", revision=REVISION), "llm", check_llm, workshop)
