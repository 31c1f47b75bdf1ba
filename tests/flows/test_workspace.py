"""A run's workspace: all that the run needs, and nothing of the checkout touched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from components.errors import ConfigurationError
from flows.processes import Groups
from flows.run import PipelineRun, child_environment
from flows.workspace import KEPT_RUNS, bring, claimed_workspace, fill
from tests.flows.conftest import Project


def _run(project: Project, folder: Path) -> PipelineRun:
    return PipelineRun(folder, child_environment(project.folder), Groups())


def test_a_workspace_has_the_committed_code_the_preset_the_inputs_and_the_cache(project: Project) -> None:
    (project.folder / "inputs" / "mine").mkdir()
    (project.folder / ".dvc" / "config.local").write_text("[core]\n    remote = mine\n")
    (project.folder / "params.yaml").write_text("edited")
    (project.folder / "dvc.yaml").write_text("edited")
    before = project.command("git", "status", "--porcelain")
    said: list[str] = []
    with claimed_workspace(project.folder, "one") as folder:
        run = _run(project, folder)
        fill(project.folder, run, None, said.append)
        assert (folder / "params.yaml").read_text().startswith("# ")  # the committed one
        assert said == [
            "params.yaml has edits that are not committed: this run takes the committed one",
            "not committed, so not in this run: dvc.yaml",
        ]
        fill(project.folder, run, "demo", said.append)
        assert (folder / "params.yaml").read_text() == (project.folder / "presets/demo.yaml").read_text()
        assert (folder / "inputs" / "mine").resolve() == project.folder / "inputs" / "mine"
        assert run.dvc("config", "core.remote") == (0, ["mine"])
        assert run.dvc("cache", "dir") == (0, [str(project.folder / ".dvc" / "cache")])
        with pytest.raises(ConfigurationError, match="no committed preset lost; expected one of demo, smoke"):
            fill(project.folder, run, "lost", said.append)
        with (
            pytest.raises(ConfigurationError, match="is in use by another process"),
            claimed_workspace(project.folder, "one"),
        ):
            pass
    assert project.command("git", "status", "--porcelain") == before


def test_old_workspaces_go_but_not_one_in_use(project: Project) -> None:
    runs = project.folder / "runs"
    with claimed_workspace(project.folder, "used"):
        for number in range(KEPT_RUNS + 2):
            with claimed_workspace(project.folder, f"run{number}"):
                mark = runs / f"run{number}" / ".git"
                os.utime(mark, ns=(mark.stat().st_mtime_ns + number,) * 2)
        kept = {path.name for path in runs.iterdir()}
        assert kept == {"used", *(f"run{number}" for number in range(1, KEPT_RUNS + 2))}
    listed = project.command("git", "worktree", "list").splitlines()
    assert len(listed) == 1 + len(kept)
    shutil.rmtree(runs)  # as `make clean` does
    with claimed_workspace(project.folder, "used") as folder:
        assert (folder / "dvc.yaml").is_file()


def test_a_folder_without_a_commit_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match="expected a checkout with a commit"),
        claimed_workspace(tmp_path, "one"),
    ):
        pass


def test_what_lies_upstream_is_brought_or_named(project: Project) -> None:
    with claimed_workspace(project.folder, "one") as first:
        run = _run(project, first)
        fill(project.folder, run, None, print)
        with pytest.raises(ConfigurationError, match="^download is not up to date .no run has made it yet"):
            bring(project.folder, run, ["download"])
        run.reproduce("download", lambda _: None, lambda: None)
    with claimed_workspace(project.folder, "two") as second:
        run = _run(project, second)
        fill(project.folder, run, None, print)
        bring(project.folder, run, ["download"])  # by the lock of the kept run
        assert (second / "artifacts" / "download" / "data").read_text() == "download"
        params = second / "params.yaml"
        params.write_text(params.read_text().replace("seed: ", "seed: 1"))
        with pytest.raises(ConfigurationError, match=r"^download is .*seed .* start the run at download$"):
            bring(project.folder, run, ["download"])
    assert not (project.folder / "artifacts").exists()
    assert not (project.folder / "dvc.lock").exists()
