"""The whole pipeline by `prefect deployment run llm2clip/full`, and a cancellation, on the preset smoke."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from components.storage.atomic import read_json
from components.storage.layout import STAGES
from tests.flows.conftest import Server, commit

DEADLINE_SECONDS = 420.0  # of a machine that is busy with other things
POLL_SECONDS = 0.5


class Deployment:
    """The deployment as the UI sees it."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self.client = client
        self.id = client.read_deployment_by_name("llm2clip/full").id

    def run(self, **parameters: Any) -> UUID:
        return self.client.create_flow_run_from_deployment(self.id, parameters=parameters).id

    def wait(self, run: UUID, until: Callable[[FlowRun], bool]) -> FlowRun:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not until(found := self.client.read_flow_run(run)):
            assert time.monotonic() < deadline, self.logs(run)[-20:]
            time.sleep(POLL_SECONDS)
        return found

    def tasks(self, run: UUID) -> dict[str, str]:
        only = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
        return {task.name: task.state_name or "" for task in self.client.read_task_runs(flow_run_filter=only)}

    def logs(self, run: UUID) -> list[str]:
        only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]))
        return [log.message for log in self.client.read_logs(only, limit=200)]

    def shown(self, run: UUID) -> dict[str, str]:
        only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        artifacts = self.client.read_artifacts(artifact_filter=only)
        return {artifact.key or "": str(artifact.data) for artifact in artifacts}


def _is_over(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()


@pytest.mark.timeout(900)
def test_a_run_completes_and_a_cancelled_one_leaves_nothing_alive(
    server: Server, prefect_client: SyncPrefectClient
) -> None:
    deployment = Deployment(prefect_client)
    whole = deployment.run(preset="smoke")
    state = deployment.wait(whole, _is_over).state
    assert state is not None
    assert state.is_completed(), state.message
    assert deployment.tasks(whole) == dict.fromkeys(STAGES, "Completed")
    shown = deployment.shown(whole)
    assert {f"verdict-{stage.replace('_', '-')}" for stage in STAGES} < shown.keys()
    assert float(shown["progress-train-clip"]) == 100
    assert all(f"| {stage} | ran |" in shown["results"] for stage in STAGES)
    places = dict(line[2:].split(": ", 1) for line in shown["results"].splitlines() if line.startswith("- "))
    assert places.keys() == {"report", "audit", "metrics", "release", "registry"}
    assert [
        path for path in server.folder.iterdir() if path.name in ("artifacts", "metrics", "dvc.lock")
    ] == []

    smoke = server.folder / "presets" / "smoke.yaml"
    head, _, tail = smoke.read_text().partition("\ntrain_clip:")
    smoke.write_text(f"{head}\ntrain_clip:{_with_steps(tail, 1_000_000)}")
    commit(server.folder)
    endless = deployment.run(preset="smoke", first_stage="train_clip", last_stage="train_clip")
    deployment.wait(endless, lambda run: _is_over(run) or "progress-train-clip" in deployment.shown(endless))
    assert deployment.tasks(endless) == {"train_clip": "Running"}, deployment.logs(endless)
    prefect_client.set_flow_run_state(endless, Cancelling())
    state = deployment.wait(endless, _is_over).state
    assert state is not None
    assert state.is_cancelled()
    assert [line for line in server.left() if "components" in line or "dvc" in line] == []
    last_words = read_json(server.folder / ".work" / "train_clip" / "exit.json")
    assert last_words["exit_code"] == 143  # it saved a checkpoint first


def _with_steps(section: str, steps: int) -> str:
    lines = section.splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if line.startswith("  steps:"))
    return "".join([*lines[:first], f"  steps: {steps}\n", *lines[first + 1 :]])
