"""How a stage is started: exit codes, one writer, stop signals, the parent's death."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from components.download import stage as download
from components.errors import DataError, GateError, Stopped
from components.running.costs import Spent, store_spent
from components.running.entry import outcome_of, start
from components.running.progress import Progress
from components.settings.environment import Environment
from components.settings.params import Params
from tests.conftest import ROOT


def outcome(workspace: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((workspace / ".work" / "download" / "exit.json").read_text())
    return found


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (GateError("figure below limit"), 5, "figure below limit"),
        (Stopped(), 143, "stopped"),
        (OSError(errno.ENOSPC, "No space left on device", "x.tar"), 4, "disk full at x.tar"),
        (PermissionError(errno.EACCES, "Permission denied", "y"), 4, "Permission denied at y"),
        (KeyError("boom"), 1, "unexpected KeyError"),
    ],
)
def test_exit_codes(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(download, "run", fail)
    assert start("download") == code
    assert message in str(outcome(workspace)["message"])
    assert outcome(workspace)["exit_code"] == code


def test_a_good_run_leaves_costs_and_exit_zero(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = workspace / ".work" / "download"
    done = [3, 10]  # the first goes on from another

    def run(params: Params, env: Environment) -> None:
        progress = Progress(work, "download of two", 10, "rows", done=10 - done[0])
        for _ in range(done.pop(0)):
            progress.advance()
        store_spent(work, {"rows": Spent(2.5)})

    monkeypatch.setattr(download, "run", run)
    for worked in (3, 10):
        assert start("download") == 0
        assert outcome(workspace) == {"exit_code": 0, "message": ""}
        costs = json.loads((workspace / "costs" / "download.json").read_text())
        assert costs["peak_memory_bytes"] > 1_000_000
        assert costs["worked"] == {"download of two": worked}
        assert costs["spent_seconds"] == {"rows": 2.5}
    monkeypatch.setattr(download, "run", lambda params, env: None)
    assert start("download") == 0
    costs = json.loads((workspace / "costs" / "download.json").read_text())
    assert not costs["worked"] and not costs["spent_seconds"]


def test_a_device_that_is_not_there_ends_a_stage_with_2(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM2CLIP_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(download, "run", lambda params, env: pytest.fail("it ran"))
    assert start("download") == 2
    assert "sees no GPU; expected one" in str(outcome(workspace)["message"])


def test_a_mistyped_key_ends_any_stage_with_2(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = workspace / "params.yaml"
    path.write_text(path.read_text().replace("batch_size:", "batch_sice:", 1))
    assert start("register") == 2
    said = capsys.readouterr().err
    assert "batch_sice" in said and "batch_size" in said
    assert len(said.strip().splitlines()) <= 3


PARENT = """
    import os, subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=dict(os.environ, DVC_STAGE="x"))
    child.wait()
"""
CHILD = """
    import os, signal, threading
    from components.errors import Stopped
    from components.running.signals import die_with_parent, raise_on_stop_signals
    raise_on_stop_signals()
    die_with_parent()
    try:
        print("ready", flush=True)
        threading.Event().wait(60)
    except Stopped:
        print("stopped", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_ends_with_its_parent(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), textwrap.dedent(CHILD)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    ) as parent:  # fmt: skip
        assert parent.stdout
        assert parent.stdout.readline() == "ready\n"
        parent.send_signal(number)
        assert parent.stdout.readline() == "stopped\n"
        assert parent.stdout.read() == ""  # the pipe closes when the child is gone


def test_debug_prints_where_it_failed(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise DataError("odd rows")

    assert outcome_of(work, debug=True) == (3, "odd rows")
    assert "in work" in capsys.readouterr().err
    assert outcome_of(work) == (3, "odd rows")
    assert capsys.readouterr().err == ""
