"""The hub's cache: it serves offline, and what is damaged in it is told before it is used."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.utils._paths import filter_repo_objects

from components.base_models.fetched import check_llm, check_text_encoder, fetch
from components.base_models.hub import snapshot
from components.base_models.model_builder import ModelBuilder
from components.errors import ConfigurationError, DataError, InfrastructureError, PipelineError
from components.running.rows import Rows
from components.settings.base_models import HubModel
from components.storage.atomic import read_json
from tests.base_models.models import REVISION, into_cache, write_llama
from tests.base_models.test_text_encoders import write_encoder

LLAMA = HubModel(kind="hub", id="someone/llama", revision=REVISION)


@pytest.fixture
def builder(tmp_path: Path) -> ModelBuilder:
    return ModelBuilder(tmp_path / "work", tmp_path / "inputs", 7, "cpu", 10, Rows())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # what the variable of this name says at the start
    return tmp_path / "hub"


def test_the_cache_serves_offline(builder: ModelBuilder, cache: Path, tmp_path: Path) -> None:
    into_cache(write_llama(tmp_path / "made"), cache, "someone/llama")
    folder = fetch(LLAMA, "llm", check_llm, builder)
    assert read_json(folder / "about.json")["revision"] == REVISION
    assert not [path for path in folder.iterdir() if path.is_symlink()]
    other = HubModel(kind="hub", id="someone/llama", revision="f" * 40)
    with pytest.raises(ConfigurationError, match=r"not in the hub's cache .*without HF_HUB_OFFLINE"):
        fetch(other, "llm", check_llm, builder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])  # by sha256, and as git hashes
def test_a_file_that_is_not_what_its_name_says_is_refused(
    builder: ModelBuilder, cache: Path, tmp_path: Path, name: str
) -> None:
    snapshot = into_cache(write_llama(tmp_path / "made"), cache, "someone/llama")
    blob = (snapshot / name).resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(DataError, match=rf"{name} is damaged in the hub's cache.*remove .*{blob.name}"):
        fetch(LLAMA, "llm", check_llm, builder)
    data[-1] ^= 1
    blob.write_bytes(data)
    assert fetch(LLAMA, "llm", check_llm, builder).is_dir()


def test_a_blob_without_a_hash_is_refused(builder: ModelBuilder, cache: Path, tmp_path: Path) -> None:
    snapshot = into_cache(write_llama(tmp_path / "made"), cache, "someone/llama")
    (snapshot / "config.json").resolve().rename(tmp_path / "config.json")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(DataError, match="expected a blob named by its hash"):
        fetch(LLAMA, "llm", check_llm, builder)


def test_a_store_that_repositories_share_is_looked_through(
    builder: ModelBuilder, cache: Path, tmp_path: Path
) -> None:
    snapshot = into_cache(write_llama(tmp_path / "made"), cache, "someone/llama")
    blob = (snapshot / "model.safetensors").resolve()
    (cache / "blobs").mkdir()
    blob.rename(cache / "blobs" / "of_xet")
    blob.symlink_to("../../blobs/of_xet")
    assert fetch(LLAMA, "llm", check_llm, builder).is_dir()


def test_a_file_among_links_is_refused(builder: ModelBuilder, cache: Path, tmp_path: Path) -> None:
    snapshot = into_cache(write_llama(tmp_path / "made"), cache, "someone/llama")
    path = snapshot / "config.json"
    config = path.read_text()
    path.unlink()
    path.write_text(config)  # as an editor does that writes beside and renames
    with pytest.raises(DataError, match=r"config\.json is a file among links in the hub's cache, 1 of \d"):
        fetch(LLAMA, "llm", check_llm, builder)


def test_a_cache_of_copies_has_nothing_to_compare(
    builder: ModelBuilder, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_llama(cache / "models--someone--llama" / "snapshots" / REVISION)
    assert fetch(LLAMA, "llm", check_llm, builder).is_dir()
    assert "no links in the hub's cache, so nothing to compare their hashes with: " in caplog.text


def test_parts_below_the_top_come_from_the_cache(builder: ModelBuilder, cache: Path, tmp_path: Path) -> None:
    snapshot = into_cache(write_encoder(tmp_path / "made"), cache, "someone/encoder")
    section = HubModel(kind="hub", id="someone/encoder", revision=REVISION)
    name = "text_encoders/mine"
    folder = fetch(section, name, check_text_encoder, builder, with_modules=True)
    assert (folder / "1_Pooling" / "config.json").is_file()
    blob = (snapshot / "1_Pooling" / "config.json").resolve()
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(DataError, match=r"1_Pooling/config\.json is damaged"):
        fetch(section, name, check_text_encoder, builder, with_modules=True)


class Hub(BaseHTTPRequestHandler):
    """Answers every question with one status and reason, or hangs up where the status is 0."""

    answer: tuple[int, str] = (0, "")

    def do_GET(self) -> None:
        status, reason = self.answer
        if not status:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(status)
        self.send_header("x-error-code", reason)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a hub on loopback asked, which no attempt waits for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    yield
    server.shutdown()
    server.server_close()
    thread.join()


def test_no_token_goes_to_a_mirror_over_plain_http(
    builder: ModelBuilder, hub: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hub, "answer", (404, "RepoNotFound"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://mirror.invalid:1")
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    message = (
        r"the token of the hub \(HF_TOKEN\) would go to mirror.invalid \(HF_ENDPOINT\) over plain http; "
    )
    with pytest.raises(ConfigurationError, match=message) as fault:
        fetch(LLAMA, "llm", check_llm, builder)
    assert "hunter2" not in str(fault.value)
    monkeypatch.setenv("LLM2CLIP_PLAIN_HTTP_HOSTS", "mirror.invalid")
    with pytest.raises(PipelineError, match="someone/llama"):
        fetch(LLAMA, "llm", check_llm, builder)


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ((404, "RevisionNotFound"), ConfigurationError, "answers 404 .*a model and revision that exist"),
        ((404, "RepoNotFound"), ConfigurationError, "answers 404 .*a model and revision that exist"),
        ((401, ""), ConfigurationError, "answers 401 .*that HF_TOKEN may read"),
        ((403, "GatedRepo"), ConfigurationError, "answers 403 .*that HF_TOKEN may read"),
        ((500, ""), InfrastructureError, "answers 500 .*rerun later"),
        ((429, ""), InfrastructureError, "answers 429 .*rerun later"),
        ((0, ""), InfrastructureError, "the connection to the hub broke off during someone/llama .*rerun"),
    ],
)
def test_what_the_hub_answers_is_said(
    builder: ModelBuilder,
    hub: None,
    monkeypatch: pytest.MonkeyPatch,
    answer: tuple[int, str],
    kind: type[PipelineError],
    message: str,
) -> None:
    monkeypatch.setattr(Hub, "answer", answer)
    with pytest.raises(kind, match=message):
        fetch(LLAMA, "llm", check_llm, builder)


def test_weights_that_are_there_twice_are_not_asked_for(
    builder: ModelBuilder, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["consolidated.safetensors", "model.safetensors", "1_Pooling/config.json"]

    def chosen(*_: Any, allow_patterns: list[str], ignore_patterns: list[str], **_others: Any) -> str:
        kept = filter_repo_objects(names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        assert list(kept) == names[1:]
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", chosen)
    assert snapshot(LLAMA, with_modules=True) == cache


def test_an_id_that_is_none_is_named(builder: ModelBuilder) -> None:
    with pytest.raises(ConfigurationError, match="an id of the hub"):
        fetch(HubModel(kind="hub", id="a/b/c", revision=REVISION), "llm", check_llm, builder)
