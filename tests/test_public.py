"""What `import llm2clip` offers."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import llm2clip
from components.cli.main import app
from components.errors import ConfigurationError
from tests.conftest import ROOT


def test_a_plan_is_what_the_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    monkeypatch.chdir(tmp_path)
    lines = llm2clip.plan("presets/cc3m.yaml", cores=4, memory_gb=16)
    printed = CliRunner().invoke(app, ["plan", "cc3m", "--cores", "4", "--memory-gb", "16"])
    assert printed.stdout == "\n".join([*lines, ""])


def test_what_is_missing_is_an_error_of_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"params.yaml not found"):
        llm2clip.check()
    with pytest.raises(FileNotFoundError):
        llm2clip.load(tmp_path / "release")


def test_it_is_light_until_it_is_used() -> None:
    import subprocess
    import sys

    code = "import sys, llm2clip; print('torch' in sys.modules, sorted(llm2clip.__all__))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False ['check', 'load', 'plan']\n"
