"""Two processes train as one does; one that dies ends both; a stopped run resumes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from components.errors import ConfigurationError, DataError, InfrastructureError, Stopped
from components.running.ranks import train_apart
from components.settings.environment import Environment
from components.settings.tune_llm import Lora
from components.storage.atomic import read_json
from components.storage.layout import Layout
from components.tune_llm.stage import run
from tests.captioned import store_llm
from tests.conftest import ROOT
from tests.tune_llm.params_file import change_params

pytestmark = pytest.mark.integration

CHECKPOINTS = "checkpoints/tune_llm_phase2/00000012"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes start in the project of the test, whose code is elsewhere."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def in_two(env: Environment, layout: str = "replicated") -> Environment:
    return env.model_copy(
        update={"training_processes": 2, "training_layout": layout, "work_store": Path("two"), "threads": 1}
    )


def told(monkeypatch: pytest.MonkeyPatch, env: Environment) -> None:
    """Say in the environment what `env` says, for the processes that are started."""
    monkeypatch.setenv("LLM2CLIP_TRAINING_PROCESSES", str(env.training_processes))
    monkeypatch.setenv("LLM2CLIP_TRAINING_LAYOUT", env.training_layout)
    monkeypatch.setenv("LLM2CLIP_WORK_STORE", str(env.work_store))
    monkeypatch.setenv("LLM2CLIP_THREADS", "1")


NO_DROPOUT = Lora(rank=4, alpha=8, dropout=0.0, targets=["q_proj", "v_proj", "down_proj"])
FULL: dict[str, Any] = {"method": "full", "lora": None, "gradient_cache": True, "same_side_negatives": True}
LORA: dict[str, Any] = {"method": "lora", "lora": NO_DROPOUT, "gradient_checkpointing": True}
HALF: dict[str, Any] = {**LORA, "gradient_cache": True, "precision": "bf16"}


# without dropout, whose draws are each process's own
@pytest.mark.parametrize(
    ("layout_name", "changes"),
    [
        ("replicated", FULL),
        pytest.param("replicated", LORA, marks=pytest.mark.slow),
        pytest.param("sharded", FULL, marks=pytest.mark.slow),
        pytest.param("sharded", LORA, marks=pytest.mark.slow),
        pytest.param("sharded", HALF, marks=pytest.mark.slow),
        pytest.param("replicated", HALF, marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_what_one_does(
    layout: Layout,
    env: Environment,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    layout_name: str,
    changes: dict[str, Any],
) -> None:
    if changes == HALF:  # other chunks are rounded otherwise
        store_llm(layout, torch.bfloat16)
    params = change_params(**changes, chunks=2, caption_retrieval_steps=6)
    run(params, env)
    last = CHECKPOINTS
    alone = load_file(layout.work("tune_llm") / last / "tensors.safetensors")
    history = read_json(layout.work("tune_llm") / last / "state.json")["history"]
    metrics = read_json(layout.metrics("tune_llm"))

    two = in_two(env, layout_name)
    told(monkeypatch, two)
    with caplog.at_level(logging.INFO):
        run(params, two)
    assert f"{Path(last).parent.name}: resumed at step 12 of 12" in caplog.text  # what the two have done
    work = Layout(two.work_store).work("tune_llm")
    together = load_file(work / last / "tensors.safetensors")
    assert together.keys() == alone.keys()
    for name, tensor in alone.items():
        moved = (together[name] - tensor).float().norm() / tensor.float().norm().clamp(min=1e-9)
        assert float(moved) < (2e-2 if changes == HALF else 2e-3), name
    again = read_json(work / last / "state.json")["history"]
    for one, other in zip(history, again, strict=True):
        assert one.keys() == other.keys()
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-2 if changes == HALF else 1e-4)
    assert read_json(layout.metrics("tune_llm"))["rows_out"] == metrics["rows_out"]


def test_a_process_that_dies_ends_the_other_and_the_next_run_goes_on(
    layout: Layout, env: Environment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    params = change_params(method="full", lora=None)
    two = in_two(env)
    told(monkeypatch, two)
    kill = Path("sitecustomize.py")
    kill.write_text(
        "import os, signal\n"
        "if os.environ.get('RANK') == '1':\n"
        "    from components.running import training\n"
        "    plain = training._points\n"
        "    def points(run, number, loss):\n"
        "        if run.name == 'tune_llm_phase2' and number == 5:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return plain(run, number, loss)\n"
        "    training._points = points\n"
    )
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{Path.cwd()}{os.pathsep}{ROOT}")
        with pytest.raises(InfrastructureError, match="process 1 ended with -9 .*memory.*last checkpoint"):
            run(params, two)
    with caplog.at_level(logging.INFO):
        run(params, two)
    assert layout.artifact("tune_llm").is_dir()
    assert "tune_llm_phase2: resumed at step 12 of 12" in caplog.text


def test_a_fault_of_a_process_is_the_stages(
    layout: Layout, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = in_two(env)
    told(monkeypatch, two)
    uneven = change_params(
        phases=lambda phases: [phase.model_copy(update={"batch_size": 15}) for phase in phases]
    )
    with pytest.raises(ConfigurationError, match="a batch of 15 cannot be shared equally by 2 processes"):
        run(uneven, two)
    wild = change_params(
        method="full",
        lora=None,
        phases=lambda phases: [
            phase.model_copy(update={"learning_rate": 1e30, "batch_size": 16}) for phase in phases
        ],
    )
    with pytest.raises(DataError, match="gradient's norm is nan at step"):
        run(wild, two)


def test_processes_that_see_different_things_train_nothing(
    layout: Layout, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = change_params(method="full", lora=None)
    two = in_two(env)
    told(monkeypatch, two)
    Path("sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    from components.storage.computed import MAKERS\n"
        "    MAKERS['tune_llm']['llm'] = ('components.tune_llm.mining',)  # as if it ran other code\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{Path.cwd()}{os.pathsep}{ROOT}")
    with pytest.raises(DataError, match=r"process \d would resume at step 0, another .* on all machines"):
        run(params, two)
    assert not list(Layout(two.work_store).work("tune_llm").glob("checkpoints/*/0*"))


@pytest.mark.slow
def test_a_stop_saves_and_the_next_run_equals_one_that_was_left_alone(
    layout: Layout, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_params(method="full", lora=None)
    two = in_two(env)
    told(monkeypatch, two)
    stop = Path("sitecustomize.py")
    stop.write_text(
        "import os, signal\n"
        "if os.environ.get('RANK') == '0' and not os.path.exists('stopped'):\n"
        "    from components.running import training\n"
        "    plain = training._points\n"
        "    def points(run, number, loss):\n"
        "        if run.name == 'tune_llm_phase1' and number == 5:\n"
        "            open('stopped', 'w').close()\n"
        "            os.kill(os.getppid(), signal.SIGTERM)\n"
        "        return plain(run, number, loss)\n"
        "    training._points = points\n"
    )
    command = [sys.executable, "-m", "components", "tune_llm"]
    environment = {**os.environ, "PYTHONPATH": f"{Path.cwd()}{os.pathsep}{ROOT}"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == Stopped.exit_code, ended.stderr
    assert read_json(Layout(two.work_store).work("tune_llm") / "exit.json")["exit_code"] == Stopped.exit_code
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "resumed at step" in again.stderr
    stopped = load_file(layout.artifact("tune_llm") / "llm" / "model.safetensors")

    Path("stopped").touch()
    monkeypatch.setenv("LLM2CLIP_WORK_STORE", "undisturbed")
    environment["LLM2CLIP_WORK_STORE"] = "undisturbed"
    subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    undisturbed = load_file(layout.artifact("tune_llm") / "llm" / "model.safetensors")
    assert all((stopped[name] == tensor).all() for name, tensor in undisturbed.items())


def test_one_process_needs_nobody(env: Environment, tmp_path: Path) -> None:
    train_apart("tune_llm", env, tmp_path)
    assert not (tmp_path / "ranks").exists()
