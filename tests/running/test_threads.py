"""Threads of torch sleep soon while they wait: OpenMP reads it once in a process, when torch is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from components.running.entry import SPINS
from tests.conftest import ROOT

OF_OPENMP = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
STAGE = ["-m", "components", "embed_captions"]  # its imports take a third of those of others
RANK = ["-m", "components.running.rank", "tune_llm"]
WORKER = """
import sys
from pathlib import Path
from components.running.entry import prepare_libraries
from components.running.jobs import Modules
from components.running.progress import Progress
from components.running.workers import in_order
from components.settings.environment import Environment

def work(tell):
    return "torch" in sys.modules

if __name__ == "__main__":
    prepare_libraries(Environment())
    progress = Progress(Path("."), "test", 1, "jobs")
    assert list(in_order([work], 1, progress, Modules(("torch",)))) == [True]
    assert "torch" not in sys.modules
"""


def spins(folder: Path, command: list[str], **variables: str) -> set[int]:
    """Start Python and return how often its threads look before they sleep, as OpenMP says at its start."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_OPENMP}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "verbose", "RANK": "0", **variables}
    ended = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    # of the policy itself it says the same where none is set
    found = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", ended.stderr)
    assert found, ended.stderr
    return {int(number) for number in found}


@pytest.mark.skipif(sys.platform != "linux", reason="another OpenMP")
@pytest.mark.parametrize("command", [STAGE, RANK, ["worker.py"]], ids=["stage", "rank", "worker"])
def test_threads_sleep_soon_while_they_wait(workspace: Path, command: list[str]) -> None:
    (workspace / "worker.py").write_text(WORKER)
    assert spins(workspace, command) == {int(SPINS)}


@pytest.mark.skipif(sys.platform != "linux", reason="another OpenMP")
def test_a_users_own_policy_stays(workspace: Path) -> None:
    assert spins(workspace, STAGE, OMP_WAIT_POLICY="passive") == {0}
    assert spins(workspace, STAGE, GOMP_SPINCOUNT="77") == {77}


def test_nothing_imports_torch_before_it_is_set() -> None:
    starts = "components.running.entry, components.running.rank, components.running.workers, tests.conftest"
    code = f"import sys, {starts}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert OF_OPENMP & os.environ.keys()
