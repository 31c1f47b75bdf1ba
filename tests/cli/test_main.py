"""The short commands: a mistake of the machine is one line as well."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.cli.main import app


def dvc_without_git(folder: Path) -> None:
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")


def test_a_work_store_that_cannot_be_made_is_said_in_one_line(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dvc_without_git(workspace)
    (workspace / "file").touch()
    monkeypatch.setenv("LLM2CLIP_WORK_STORE", "file/below")
    done = CliRunner().invoke(app, ["check"])
    assert done.exit_code == 4
    assert done.stderr.startswith("Not a directory at file/below")
    assert len(done.stderr.splitlines()) == 1


def test_a_registry_that_is_none_is_said_before_anything_runs(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dvc_without_git(workspace)
    monkeypatch.setenv("LLM2CLIP_REGISTRY", "gs://bucket")
    done = CliRunner().invoke(app, ["check"])
    assert done.exit_code == 2
    assert "gs://bucket is no store we know" in done.stderr
