"""A small project of git and DVC: four cheap stages that leave what the real ones leave."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_HOME, temporary_settings

from tests.project import ROOT, copy_working_tree

DVC_YAML = """
stages:
  download:
    cmd: exec python stage.py download
    deps: [stage.py, "inputs/${download.inputs}"]
    params: [seed, download]
    outs: [artifacts/download]
    metrics: [metrics/download.json]
  base_models:
    cmd: exec python stage.py base_models
    deps: [stage.py]
    params: [seed, base_models]
    outs: [artifacts/base_models]
  recaption:
    cmd: exec python stage.py recaption
    deps: [artifacts/download/data, artifacts/base_models]
    params: [recaption]
    outs: [artifacts/recaption]
  audit:
    cmd: exec python stage.py audit
    deps: [artifacts/recaption]
    outs: [artifacts/audit]
"""
# What the real entry point does, with exit codes that the test plans
STAGE = """
import json, logging, os, sys, time
from pathlib import Path
from components.running.progress import Progress
from components.running.signals import die_with_parent

logging.basicConfig(level=logging.INFO, format="%(message)s")
stage = sys.argv[1]
store = Path(os.environ["LLM2CLIP_WORK_STORE"])
work = store / stage
work.mkdir(parents=True, exist_ok=True)
die_with_parent()
with (store / "started").open("a") as started:
    started.write(stage + "\\n")
plan = store / f"plan-{stage}.json"  # one each: stages run side by side
codes = json.loads(plan.read_text()) if plan.is_file() else []
code = codes.pop(0) if codes else 0
plan.write_text(json.dumps(codes))
if code == "hang":
    print("hanging", os.getpid(), flush=True)
    time.sleep(600)
if isinstance(code, list):  # [5, "download"]: 5, but not before download has started
    code, other = code
    while other not in (store / "started").read_text().split():
        time.sleep(0.05)
if code == "kill":
    os.kill(os.getpid(), 9)
Progress(work, stage, 10, "rows").advance(10)
if code == 0:
    for out in ("artifacts/" + stage, "metrics"):
        Path(out).mkdir(parents=True, exist_ok=True)
    Path("artifacts", stage, "data").write_text(stage)
    if stage == "download":
        Path("metrics/download.json").write_text("{}")
(work / "exit.json").write_text(json.dumps({"exit_code": code, "message": f"planned {code}"}))
sys.exit(code)
"""


class Project:
    """The project's folder and what its stages are told and did."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / ".work"
        self.store.mkdir()

    def plan(self, **codes: list[int | str | list[int | str]]) -> None:
        """Let the next runs of a stage end with these codes, then with 0; [code, other] waits for `other`."""
        for old in self.store.glob("plan-*.json"):
            old.unlink()
        for stage, planned in codes.items():
            (self.store / f"plan-{stage}.json").write_text(json.dumps(planned))
        (self.store / "started").unlink(missing_ok=True)

    def started(self) -> list[str]:
        """The stages that DVC started since the last plan."""
        path = self.store / "started"
        return path.read_text().split() if path.is_file() else []

    def command(self, *arguments: str) -> str:
        """Run git or dvc."""
        return subprocess.run(arguments, cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def commit(self) -> None:
        """Commit everything."""
        commit(self.folder)


@pytest.fixture(scope="session", autouse=True)
def _tools_on_path() -> Iterator[None]:
    before = os.environ["PATH"]
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    yield
    os.environ["PATH"] = before


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "presets").mkdir()
    (folder / "inputs" / "demo").mkdir(parents=True)
    (folder / "inputs" / "demo" / ".gitkeep").touch()
    for name in (".gitignore", ".dvcignore", "presets/smoke.yaml", "presets/demo.yaml"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(ROOT / "presets" / "smoke.yaml", folder / "params.yaml")
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "stage.py").write_text(STAGE)
    project = Project(folder)
    project.command("git", "init", "-q", "-b", "main")
    project.command("dvc", "init", "-q")
    project.commit()
    return folder


@pytest.fixture
def project(_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A fresh copy of the project, the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(_template, folder)
    shutil.rmtree(folder / ".work")
    monkeypatch.chdir(folder)
    return Project(folder)


class Server:
    """Prefect's server, deployment and worker on a copy of this project, as `make ui` starts them."""

    def __init__(self, folder: Path, process: subprocess.Popen[str], port: int) -> None:
        self.folder = folder
        self.process = process
        self.api = f"http://127.0.0.1:{port}/api"
        self.secret_file = folder / ".prefect" / "auth"
        self.said: list[str] = []

    @property
    def secret(self) -> str:
        """What its clients must send."""
        return self.secret_file.read_text().strip()

    def wait_until_said(self, text: str) -> None:
        """Read its output up to a line with this text."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line)
            if text in line:
                return
        pytest.fail("".join(self.said))

    def deploy(self) -> subprocess.CompletedProcess[str]:
        """Run `python -m flows.deploy` as a user does after the lines to export."""
        environment = {
            **os.environ,
            "PREFECT_API_URL": self.api,
            "PREFECT_API_AUTH_STRING": self.secret,
            "PREFECT_HOME": str(self.folder / ".prefect"),
        }
        command = [sys.executable, "-m", "flows.deploy"]
        return subprocess.run(
            command, cwd=self.folder, env=environment, check=False, capture_output=True, text=True
        )

    def stop(self) -> int:
        """Stop it as Ctrl-C does; return its exit code."""
        self.process.terminate()
        self.process.communicate()
        return self.process.returncode

    def left(self) -> list[str]:
        """The processes that still work in the copy."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (path / "cwd").resolve().is_relative_to(self.folder):
                    found.append((path / "cmdline").read_text().replace("\0", " "))
        return found


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real thing, once for all tests; preset smoke."""
    folder = tmp_path_factory.mktemp("clone")
    copy_working_tree(folder, "smoke")
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=folder, check=True)
    commit(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment["OMP_NUM_THREADS"] = "1"  # two stages run side by side
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "flows.ui", "--port", str(port)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    running = Server(folder, process, port)
    running.wait_until_said("Ctrl-C")
    assert f"  export PREFECT_API_URL={running.api}\n" in running.said
    assert f'  export PREFECT_API_AUTH_STRING="$(cat {running.secret_file})"\n' in running.said
    yield running
    assert running.stop() == 0
    assert running.left() == []
    # logs, artifacts, workspaces, the database: the secret is nowhere but in its file
    listed = subprocess.run(
        ["grep", "-rlF", running.secret, folder], check=False, capture_output=True, text=True
    )
    assert listed.stdout.split() == [str(running.secret_file)]


def commit(folder: Path) -> None:
    """Commit everything in a folder."""
    for arguments in (["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "state"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)


@pytest.fixture
def prefect_client(server: Server) -> Iterator[SyncPrefectClient]:
    """A client of that server; the user's own Prefect profile is not looked at."""
    settings = {
        PREFECT_API_URL: server.api,
        PREFECT_API_AUTH_STRING: server.secret,
        PREFECT_HOME: server.folder / ".prefect",
    }
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client
