"""The whole pipeline by `dvc repro` on the smoke preset: undisturbed, killed three times, run again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from components.storage.layout import STAGES
from tests.project import Project

NOTHING_RAN = "Data and pipelines are up to date."


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline ran to the end."""
    project = Project(tmp_path_factory.mktemp("finished") / "project")
    project.run("dvc", "repro")
    return project


def test_every_stage_leaves_metrics_costs_and_artifacts(finished: Project) -> None:
    for stage in STAGES:
        assert json.loads((finished.folder / "metrics" / f"{stage}.json").read_text())
        assert json.loads((finished.folder / "costs" / f"{stage}.json").read_text())["seconds"] > 0
        assert (finished.folder / "artifacts" / stage / "manifest.json").is_file()


def test_rows_balance_in_every_stage_that_counts_them(finished: Project) -> None:
    for stage in STAGES:
        figures = json.loads((finished.folder / "metrics" / f"{stage}.json").read_text())
        if "rows_in" in figures:
            assert figures["rows_in"] == figures["rows_out"] + sum(figures["rejected"].values()), stage


def test_a_second_repro_runs_nothing(finished: Project) -> None:
    before = finished.outputs()
    assert NOTHING_RAN in finished.run("dvc", "repro").stdout
    assert finished.outputs() == before


def test_git_sees_nothing_but_the_lock(finished: Project) -> None:
    assert finished.run("git", "status", "--porcelain").stdout.split() == ["??", "dvc.lock"]


def test_metrics_and_plots_show(finished: Project) -> None:
    shown = finished.run("dvc", "metrics", "show").stdout
    assert "metrics/evaluate.json" in shown and "costs/train_clip.json" in shown
    assert "index.html" in finished.run("dvc", "plots", "show").stdout


def test_results_are_said(finished: Project) -> None:
    said = finished.run("llm2clip", "results").stdout
    assert "artifacts/evaluate/report.html" in said and "artifacts/register" in said
    assert "seconds of training: clip " in said and "tune_llm " in said and "unknown" not in said


def test_a_failed_gate_stops_training_and_keeps_the_last_good_state(finished: Project) -> None:
    params = finished.folder / "params.yaml"
    good, lock = params.read_text(), (finished.folder / "dvc.lock").read_bytes()
    report = (finished.folder / "artifacts" / "audit" / "verdict.json").read_bytes()
    params.write_text(good.replace("min_rows: 8", "min_rows: 8000"))
    failed = finished.run("dvc", "repro", check=False)
    exit_json = json.loads((finished.folder / ".work" / "audit" / "exit.json").read_text())
    assert failed.returncode != 0
    assert exit_json["exit_code"] == 5 and "min_rows" in exit_json["message"]
    assert (finished.folder / "dvc.lock").read_bytes() == lock
    params.write_text(good)
    finished.run("dvc", "checkout")
    assert (finished.folder / "artifacts" / "audit" / "verdict.json").read_bytes() == report
    assert NOTHING_RAN in finished.run("dvc", "repro").stdout


# stage, the line after which to kill, whom, by what, and the line by which the rerun shows that it resumed
KILLS = [
    ("base_models", "checkpoint at step 4", "dvc", signal.SIGKILL, "resumed at step"),
    ("tune_llm", "checkpoint at step 4", "dvc", signal.SIGTERM, "resumed at step"),
    ("train_clip", "checkpoint at step 4", "stage", signal.SIGKILL, "resumed at step"),
]


# taken from DVC's cache, and not run twice: that these make equal bytes, killed or not, their own tests show
TAKEN = ("download", "recaption", "audit", "embed_captions")


def take_runs(project: Project, other: Project) -> None:
    """Give a project another one's cache, and of its runs those of stages that need not run again."""
    project.run("cp", "-a", str(other.folder / ".dvc" / "cache"), ".dvc/cache")
    for path in list((project.folder / ".dvc" / "cache" / "runs").glob("*/*/*")):
        if path.read_text("utf-8").splitlines()[0].split()[-1] not in TAKEN:
            shutil.rmtree(path.parent)  # DVC trips over one that is empty


def kill_at(project: Project, stage: str, line: str, whom: str, number: signal.Signals) -> None:
    """Start `dvc repro`, kill it or its stage after a logged line of that stage, and wait for the dust."""
    with project.start("dvc", "repro") as dvc:
        assert dvc.stdout
        is_running = False
        for said in dvc.stdout:
            is_running |= f"Running stage '{stage}'" in said
            if is_running and line in said:
                break
        else:
            pytest.fail(f"{stage} never said {line!r}")
        pid = dvc.pid if whom == "dvc" else int((project.folder / ".work" / stage / "lock").read_text())
        os.kill(pid, number)
        dvc.stdout.read()
    assert dvc.returncode != 0
    project.wait_until_quiet()


@pytest.mark.integration
def test_three_kills_and_another_run_give_the_same_hashes(finished: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    take_runs(project, finished)
    log = ""
    for stage, line, whom, number, _ in KILLS:
        kill_at(project, stage, line, whom, number)
        log += project.run("dvc", "repro", stage).stdout
    log += project.run("dvc", "repro").stdout
    assert log.count(KILLS[0][-1]) >= len(KILLS)
    assert project.outputs() == finished.outputs()


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("moment", ["first", "last"])
def test_every_stage_killed_at_two_moments(
    finished: Project, tmp_path: Path, stage: str, moment: str
) -> None:
    project = Project(tmp_path / "project")
    for kept in ("artifacts", "metrics", "dvc.lock", ".dvc/cache"):
        project.run("cp", "-a", str(finished.folder / kept), kept)
    with project.start("dvc", "repro", "--force", "--single-item", stage) as dvc:
        assert dvc.stdout
        for said in dvc.stdout:
            if f"{stage}" in said and " of " in said and (moment == "first" or _is_late(said)):
                os.kill(dvc.pid, signal.SIGKILL)
                break
        dvc.stdout.read()
    project.wait_until_quiet()
    project.run("dvc", "repro", "--force", "--single-item", stage)
    assert project.outputs() == finished.outputs()


def _is_late(line: str) -> bool:
    found = re.search(r"(\d+) of (\d+)\b", line)
    return found is not None and int(found[1]) >= int(found[2])
