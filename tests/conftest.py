"""Fixtures: a project in a temporary folder, on the smoke preset."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest

from components.running.entry import SPINS
from components.running.signals import STOP_SIGNALS
from components.settings.environment import Environment
from components.settings.params import Params, load_params
from components.storage.hashes import VARIABLE

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # as in a stage; torch, imported later, reads it once


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes that are no text are named by their argument: archives hold the second they were made in.

    Two workers that collect a test under two names run nothing at all.
    """
    del config
    if isinstance(val, bytes) and not (val.isascii() and val.decode().isprintable()):
        return argname
    return None


@pytest.fixture(autouse=True)
def _handlers_restored() -> Iterator[None]:
    """A stage started in the test's own process changes what signals do, and children inherit it."""
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    yield
    for number, handler in zip(STOP_SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _no_memory_of_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage started in the test's own process would have later tests remember in its work store."""
    monkeypatch.setenv(VARIABLE, "")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the machine's is none of a test's."""
    for scheme in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_proxy".upper(), raising=False)


@pytest.fixture
def smoke() -> Params:
    """The params of the smoke preset."""
    return load_params(ROOT / "presets" / "smoke.yaml")


@pytest.fixture
def env() -> Environment:
    """An environment that nothing of the machine's leaks into."""
    return Environment()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, the current one, with the smoke preset as params.yaml."""
    shutil.copy(ROOT / "presets" / "smoke.yaml", tmp_path / "params.yaml")
    (tmp_path / "inputs" / "demo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shared() -> Path:
    """Real photographs and captions; the test skips where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    return SHARED


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server on a free loopback port; it keeps everything in memory."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of an empty bucket; the AWS variables point to its server and to no file of this machine."""
    import boto3

    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", token_hex())  # a canary that stands in no source file
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = boto3.resource("s3").Bucket("tests-of-llm2clip")
    bucket.create()
    yield bucket.name
    bucket.objects.all().delete()
    bucket.delete()
