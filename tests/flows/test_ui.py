"""What `make ui` does when a part of it ends, and what it says."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from components.errors import InfrastructureError
from flows import ui

ENDLESS = "import time; time.sleep(600)"
KILLED = "import os; os.kill(os.getpid(), 9)"


class Parts:
    """A server, and workers of which each runs the next of some programs."""

    def __init__(self, server: str, *workers: str) -> None:
        self.waiting = list(workers)
        self.parts = {"server": self._spawn(server)}
        self.start_worker()

    def start_worker(self) -> None:
        self.parts["worker"] = self._spawn(self.waiting.pop(0))

    def _spawn(self, program: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", program], process_group=0)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui, "POLL_SECONDS", 0.01)


def test_a_worker_that_ends_at_once_again_and_again_stops_it_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "worker.log").write_text("no such pool")
    parts = Parts(ENDLESS, KILLED, "raise SystemExit(1)", KILLED, KILLED)
    with pytest.raises(InfrastructureError) as ended, caplog.at_level(logging.WARNING):
        ui._watch(parts.parts, tmp_path, parts.start_worker)
    assert parts.parts["server"].poll() is None  # it stayed up meanwhile
    parts.parts["server"].kill()
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "Prefect's worker was killed by SIGKILL",
        "Prefect's worker ended with exit code 1",
        "Prefect's worker was killed by SIGKILL",
    ]
    assert str(ended.value) == (
        "Prefect's worker was killed by SIGKILL, the 4th time in a row within 60 s of its start; "
        f"{tmp_path}/worker.log ends with: no such pool"
    )


def test_a_worker_that_worked_for_a_while_is_always_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ui, "EARLY_SECONDS", 0.0)
    parts = Parts(ENDLESS, *[KILLED] * 6)

    def start_worker() -> None:
        parts.start_worker()
        if not parts.waiting:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ui._watch(parts.parts, tmp_path, start_worker)
    parts.parts["server"].kill()


def test_a_server_that_ends_stops_it_all(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text("out of memory")
    parts = Parts(KILLED, ENDLESS)
    with pytest.raises(InfrastructureError) as ended:
        ui._watch(parts.parts, tmp_path, parts.start_worker)
    parts.parts["worker"].kill()
    assert str(ended.value) == (
        f"Prefect's server was killed by SIGKILL; {tmp_path}/server.log ends with: out of memory"
    )


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (
            Path("/a b/.prefect/auth"),
            "  export PREFECT_API_AUTH_STRING=\"$(cat '/a b/.prefect/auth')\"",
        ),
        (None, "  export PREFECT_API_AUTH_STRING=... # the secret that you set"),
    ],
)
def test_the_lines_to_export_name_the_secret_s_file(
    caplog: pytest.LogCaptureFixture, path: Path | None, line: str
) -> None:
    with caplog.at_level(logging.INFO):
        ui._welcome(4200, "http://127.0.0.1:4200/api", Path("/a b/.prefect"), path)
    assert line in [record.message for record in caplog.records]


def test_only_the_secret_of_the_user_s_prefect_reaches_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", "canary")
    environment = ui._environment(Path("home"), "http://127.0.0.1:4200/api", "admin:x")
    assert (
        environment["PREFECT_SERVER_API_AUTH_STRING"] == environment["PREFECT_API_AUTH_STRING"] == "admin:x"
    )
    assert "canary" not in environment.values()
