"""`precision: auto` is settled by the machine before a stage or a training process sees params."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.errors import ConfigurationError
from components.ml import precision
from components.running import rank
from components.running.entry import start
from components.running.precision import resolved
from components.settings.environment import Environment
from components.settings.params import Params, load_params
from components.storage.layout import PARAMS
from components.train_clip import stage as train_clip
from components.tune_llm import stage as tune_llm
from tests.conftest import ROOT

STAGES = ("tune_llm", "train_clip")


def write_precision(value: str) -> Params:
    """Write it into both sections of the workspace's params.yaml and read that."""
    yaml = YAML()
    tree = yaml.load(PARAMS.read_text("utf-8"))
    for stage in STAGES:
        tree[stage]["precision"] = value
    yaml.dump(tree, PARAMS)
    return load_params(PARAMS)


def precisions(params: Params) -> tuple[str, str]:
    return params.tune_llm.precision, params.train_clip.precision


@pytest.mark.parametrize(("is_fast", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_what_the_processor_is_fast_at(
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_fast: bool,
    expected: str,
) -> None:
    params = write_precision("auto")
    monkeypatch.setattr(precision, "is_bf16_fast", lambda: is_fast)
    with caplog.at_level(logging.INFO):
        assert precisions(resolved(params, "tune_llm", "cpu")) == (expected, "auto")
    assert caplog.messages == [f"tune_llm.precision is auto: {expected} on this machine's cpu"]
    assert precisions(resolved(params, "train_clip", "cpu")) == ("auto", expected)
    # a later stage knows no better than params what an earlier one came to, maybe on another machine
    for stage in ("embed_captions", "evaluate", "register"):
        assert resolved(params, stage, "cpu") is params


def test_what_params_say_stays(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "is_bf16_fast", lambda: pytest.fail("nobody asked"))
    for value in ("fp32", "bf16"):
        params = write_precision(value)
        assert [resolved(params, stage, "cpu") for stage in STAGES] == [params, params]
    with pytest.raises(ConfigurationError, match=r"tune_llm\.precision.*'fp32', 'bf16' or 'auto'"):
        write_precision("fp16")


def test_torch_is_imported_where_there_is_something_to_settle(workspace: Path) -> None:
    write_precision("auto")
    code = (
        "import sys; from pathlib import Path; from components.running.precision import resolved; "
        "from components.settings.params import load_params; params = load_params(Path('params.yaml')); "
        "resolved(params, 'register', 'cpu'); assert 'torch' not in sys.modules; "
        "resolved(params, 'tune_llm', 'cpu'); assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, check=True)


@pytest.mark.parametrize("is_fast", [True, False])
def test_a_stage_sees_what_it_came_to(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, is_fast: bool
) -> None:
    write_precision("auto")
    seen: list[str] = []
    monkeypatch.setattr(precision, "is_bf16_fast", lambda: is_fast)
    monkeypatch.setattr(tune_llm, "run", lambda params, env: seen.append(params.tune_llm.precision))
    monkeypatch.setattr(train_clip, "run", lambda params, env: seen.append(params.train_clip.precision))
    assert [start(stage) for stage in STAGES] == [0, 0]
    assert seen == ["bf16" if is_fast else "fp32"] * 2


def test_a_training_process_asks_when_it_has_a_gpu_of_its_own(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_precision("auto")
    events: list[str] = []

    def join(_env: Environment) -> Any:  # noqa: ANN401 - a context manager
        events.append("joined")
        return nullcontext()

    def is_fast() -> bool:
        events.append("asked")
        return True

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(rank, "end_with_parent", lambda: None)
    monkeypatch.setattr(rank, "process_group", join)
    monkeypatch.setattr(precision, "is_bf16_fast", is_fast)
    monkeypatch.setattr(tune_llm, "train", lambda params, env: events.append(params.tune_llm.precision))
    assert rank.main("tune_llm") == 0
    assert events == ["joined", "asked", "bf16"]
