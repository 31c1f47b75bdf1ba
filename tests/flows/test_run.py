"""DVC through a run: verdicts, why, and how each failure is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import ConfigurationError, DataError, InfrastructureError, PipelineError
from flows.processes import Groups
from flows.run import PipelineRun, child_environment
from tests.flows.conftest import Project


@pytest.fixture
def run(project: Project) -> PipelineRun:
    return PipelineRun(project.folder, child_environment(project.folder), Groups())


def _silent(*_: object) -> None:
    return


def test_a_stage_runs_is_skipped_is_stale_for_a_named_reason_and_is_pushed(
    project: Project, run: PipelineRun
) -> None:
    lines: list[str] = []
    first = run.reproduce("download", lines.append, _silent)
    assert (first.what, first.why) == ("ran", ["no earlier result is recorded"])
    assert "download: rows 10 of 10" in " ".join(lines)
    assert not any("git add" in line for line in lines)  # DVC's advice is for another place
    again = run.reproduce("download", _silent, _silent)
    assert (again.what, again.why) == ("skipped", ["nothing changed"])
    params = project.folder / "params.yaml"
    seed = next(line for line in params.read_text().splitlines() if line.startswith("seed:"))
    params.write_text(params.read_text().replace(seed, "seed: 99"))
    assert run.changes(["download"]) == {"download": [f"params.yaml seed {seed.split()[1]} -> 99"]}
    with pytest.raises(InfrastructureError, match="no remote"):  # it may be tried again
        run.push("download")
    remote = project.folder.parent / "remote"
    with (project.folder / ".dvc" / "config").open("a") as config:
        config.write(f"[core]\n    remote = store\n['remote \"store\"']\n    url = {remote}\n")
    run.push("download")
    assert {path.name for path in remote.iterdir()} == {
        "files",
        "runs",
    }  # outputs, and DVC's memory of the run


@pytest.mark.parametrize("code", ["NoSuchBucket", "SignatureDoesNotMatch", "Forbidden"])
def test_a_push_that_is_refused_is_not_tried_again(
    run: PipelineRun, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    said = [f"ERROR: failed to push data to the cloud - An error occurred ({code}) when calling PutObject"]
    monkeypatch.setattr(run, "dvc", lambda *_arguments: (255, said))
    with pytest.raises(ConfigurationError, match=rf"^dvc push download: .*{code}"):
        run.push("download")


def test_a_failure_is_the_stage_s_own(project: Project, run: PipelineRun) -> None:
    project.plan(base_models=[3])
    with pytest.raises(DataError, match="^base_models: planned 3$"):
        run.reproduce("base_models", _silent, _silent)
    assert project.started() == ["base_models"]


def test_a_stage_without_last_words_was_killed(project: Project, run: PipelineRun) -> None:
    (project.store / "base_models").mkdir()
    (project.store / "base_models" / "exit.json").write_text('{"exit_code": 4, "message": "an older run"}')
    project.plan(base_models=["kill"])
    with pytest.raises(PipelineError, match="was killed before it could say why") as caught:
        run.reproduce("base_models", _silent, _silent)
    assert caught.value.exit_code == 1  # not tried again
    assert "-9" in str(caught.value)


def test_what_dvc_refuses_is_told_in_its_words(project: Project, run: PipelineRun) -> None:
    with pytest.raises(ConfigurationError, match="^recaption: .*No such file.*artifacts/download"):
        run.reproduce("recaption", _silent, _silent)  # its inputs were not made
    (project.folder / "dvc.yaml").write_text("stages: {download: {cmd: x, no_such_key: 1}}")
    with pytest.raises(ConfigurationError, match="dvc status: .*dvc.yaml.* no_such_key, line 1"):
        run.changes(["download"])


def test_relative_paths_of_the_environment_mean_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM2CLIP_WORK_STORE", "store")
    monkeypatch.setenv("AWS_CONFIG_FILE", "aws.ini")
    monkeypatch.setenv("PREFECT_API_KEY", "canary")
    environment = child_environment(tmp_path)
    assert environment["LLM2CLIP_WORK_STORE"] == str(tmp_path / "store")
    assert environment["LLM2CLIP_REGISTRY"] == str(tmp_path / "registry")
    assert environment["AWS_CONFIG_FILE"] == str(tmp_path / "aws.ini")
    assert "canary" not in environment.values()
    monkeypatch.setenv("LLM2CLIP_REGISTRY", "s3://bucket/models")
    assert child_environment(tmp_path)["LLM2CLIP_REGISTRY"] == "s3://bucket/models"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LLM2CLIP_WORK_STORE", "~/store")
    assert child_environment(tmp_path)["LLM2CLIP_WORK_STORE"] == str(tmp_path / "home" / "store")
