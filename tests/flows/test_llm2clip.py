"""The flow on the small project and a real server: order, retries, stops, what is shown."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import State

from components.errors import ConfigurationError, DataError
from flows import llm2clip as flow
from tests.flows.conftest import Project

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch, prefect_client: SyncPrefectClient) -> None:
    monkeypatch.setattr(flow, "RETRY_DELAYS_SECONDS", [0.0, 0.0])


def _run(**parameters: Any) -> State[Any]:
    return flow.llm2clip(last_stage="recaption", return_state=True, **parameters)


def _fault(state: State[Any]) -> Any:
    return state.result(raise_on_failure=False)


def _tasks(client: SyncPrefectClient, state: State[Any]) -> dict[str, str]:
    only = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    return {run.name: run.state_name or "" for run in client.read_task_runs(flow_run_filter=only)}


def test_retries_only_infrastructure_and_stops_at_a_failure_then_goes_on(
    project: Project, prefect_client: SyncPrefectClient
) -> None:
    project.plan(download=[4], recaption=[3])
    failed = _run()
    assert failed.is_failed()
    assert isinstance(_fault(failed), DataError)
    assert failed.message == "recaption: planned 3"
    assert sorted(project.started()) == ["base_models", "download", "download", "recaption"]

    project.plan()
    done = _run(preset="smoke")
    assert done.is_completed(), done.message
    assert project.started() == ["recaption"]  # what was done is restored; audit is after the last stage
    only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[done.state_details.flow_run_id]))
    shown = {
        artifact.key: str(artifact.data) for artifact in prefect_client.read_artifacts(artifact_filter=only)
    }
    assert shown.keys() == {
        "verdict-download",
        "verdict-base-models",
        "verdict-recaption",
        "progress-recaption",
        "results",
    }
    assert "| download | restored |" in shown["results"]
    assert "| only its outputs are not here |" in shown["results"]  # by the record of the failed run
    assert "| recaption | ran |" in shown["results"]
    assert float(shown["progress-recaption"]) == 100
    assert project.command("git", "status", "--porcelain") == ""


def test_a_failure_stops_what_runs_beside_it(project: Project, prefect_client: SyncPrefectClient) -> None:
    project.plan(download=["hang"], base_models=[[5, "download"]])
    failed = _run()
    assert failed.message == "base_models: planned 5"
    assert sorted(project.started()) == ["base_models", "download"]
    # recaption and audit, which read from them, were never asked for
    assert _tasks(prefect_client, failed) == {"download": "Cancelled", "base_models": "Failed"}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"first_stage": "recaption"}, "download is not up to date"),
        ({"push": True}, "no default DVC remote is configured"),
        ({"preset": "lost"}, "no committed preset lost"),
    ],
)
def test_what_cannot_run_is_said_before_anything_runs(
    project: Project, parameters: dict[str, Any], message: str
) -> None:
    project.plan()
    failed = _run(**parameters)
    assert message in (failed.message or "")
    assert isinstance(_fault(failed), ConfigurationError)
    assert project.started() == []
