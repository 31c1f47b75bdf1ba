"""S3 by the standard AWS variables alone: DVC's remote and the registry, and no secret left anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest

from components.errors import ConfigurationError
from components.register.stage import run
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.layout import Layout
from tests.project import Project
from tests.register.conftest import trained, trained_artifacts

__all__ = ["trained", "trained_artifacts"]  # fixtures
BIN = Path(sys.executable).parent
NOTHING_RAN = "Data and pipelines are up to date."
STAGE = """\
stages:
  square:
    cmd: python square.py
    deps: [numbers.txt, square.py]
    outs: [squares]
"""
SQUARE = """\
from pathlib import Path
Path("squares").mkdir()
for line in Path("numbers.txt").read_text().split():
    Path("squares", line).write_text(str(int(line) ** 2))
"""


def tool(folder: Path, *command: str) -> str:
    """Run git or dvc in a folder and return what it said."""
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "HOME": str(folder.parent),
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def git(folder: Path, *arguments: str) -> str:
    return tool(folder, "git", "-c", "user.name=user", "-c", "user.email=user@localhost", *arguments)


def add_remote(folder: Path, bucket: str) -> None:
    """Write what `dvc remote add -d` and `dvc remote modify store verify true` write."""
    config = folder / ".dvc" / "config"
    config.parent.mkdir(exist_ok=True)
    core = config.read_text() if config.is_file() else "[core]\n"
    remote = f"['remote \"store\"']\n    url = s3://{bucket}/dvc\n    verify = true\n"
    config.write_text(core.replace("[core]\n", "[core]\n    remote = store\n") + remote)


def secrets_in(folder: Path) -> list[Path]:
    """Return the files below a folder that hold the secret key."""
    canary = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    return [path for path in folder.rglob("*") if path.is_file() and canary in path.read_bytes()]


def secrets_in_bucket(bucket: str) -> list[str]:
    canary = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    found = []
    for one in boto3.resource("s3").Bucket(bucket).objects.all():
        answer = one.get()
        if canary in answer["Body"].read() + json.dumps(answer["Metadata"]).encode():
            found.append(one.key)
    return found


def test_a_second_clone_pulls_everything_and_runs_nothing(s3: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    for name, text in (("dvc.yaml", STAGE), ("square.py", SQUARE), ("numbers.txt", "3\n5\n7\n")):
        (first / name).write_text(text)
    git(first, "init", "-q")
    add_remote(first, s3)
    tool(first, "dvc", "repro")
    tool(first, "dvc", "push")
    git(first, "add", "-A")
    git(first, "commit", "-qm", "squares")
    git(tmp_path, "clone", "-q", str(first), str(second))

    tool(second, "dvc", "pull")
    assert {path.name: path.read_text() for path in (second / "squares").iterdir()} == {
        "3": "9",
        "5": "25",
        "7": "49",
    }
    assert NOTHING_RAN in tool(second, "dvc", "repro")
    assert secrets_in(tmp_path) == []
    assert secrets_in_bucket(s3) == []


@pytest.mark.slow
def test_the_whole_pipeline_comes_back_from_the_remote(s3: str, tmp_path: Path) -> None:
    project = Project(tmp_path / "first")
    add_remote(project.folder, s3)
    project.run("dvc", "repro")
    project.run("dvc", "push")
    git(project.folder, "add", "-A")
    git(project.folder, "commit", "-qm", "a run")
    second = tmp_path / "second"
    git(tmp_path, "clone", "-q", str(project.folder), str(second))
    tool(second, "dvc", "pull")
    assert NOTHING_RAN in tool(second, "dvc", "repro")
    assert secrets_in(tmp_path) == []
    assert secrets_in_bucket(s3) == []


def test_the_registry_on_s3_holds_the_release_and_no_secret(
    s3: str, smoke: Params, trained: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", logger="llm2clip"):
        run(smoke, Environment(registry=f"s3://{s3}/registry"))
    keys = [one.key for one in boto3.resource("s3").Bucket(s3).objects.all()]
    assert "registry/models/llm2clip_smoke/aliases/latest.json" in keys
    assert sum(key.endswith("/manifest.json") for key in keys) == 1
    assert secrets_in_bucket(s3) == []
    assert secrets_in(Path()) == []
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in caplog.text


@pytest.fixture
def guarded(s3: str, s3_endpoint: str) -> Iterator[tuple[str, str]]:
    """Make the server check credentials from here on; yield a key and secret that it knows."""
    iam = boto3.client("iam", endpoint_url=s3_endpoint)
    iam.create_user(UserName="publisher")
    key = iam.create_access_key(UserName="publisher")["AccessKey"]
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
    iam.put_user_policy(UserName="publisher", PolicyName="all", PolicyDocument=policy)
    _check_credentials(s3_endpoint, after_requests="0")
    yield key["AccessKeyId"], key["SecretAccessKey"]
    _check_credentials(s3_endpoint, after_requests="inf")


def _check_credentials(endpoint: str, after_requests: str) -> None:
    connection = HTTPConnection(urlsplit(endpoint).netloc)
    connection.request("POST", "/moto-api/reset-auth", after_requests, {"Content-Type": "text/plain"})
    assert connection.getresponse().status == HTTPStatus.OK


def test_wrong_credentials_are_refused_before_any_work(
    s3: str, guarded: tuple[str, str], smoke: Params, trained: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = Environment(registry=f"s3://{s3}/registry")
    wrong = "wrong-canary-of-the-tests-0123456789"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", guarded[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", wrong)
    with pytest.raises(
        ConfigurationError, match=r"refused the credentials \(SignatureDoesNotMatch\)"
    ) as fault:
        run(smoke, env)
    assert len(str(fault.value).splitlines()) == 1
    assert wrong not in str(fault.value)
    assert not trained.artifact("register").exists()

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", guarded[1])
    run(smoke, env)
    assert trained.artifact("register").is_dir()


def test_a_stage_says_it_in_three_lines_and_exit_2(s3: str, trained: Layout) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "LLM2CLIP_REGISTRY": "s3://nowhere-to-be-found/x",
    }
    done = subprocess.run(
        [sys.executable, "-m", "components", "register"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == ConfigurationError.exit_code
    assert "there is no such bucket" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in done.stderr + done.stdout
