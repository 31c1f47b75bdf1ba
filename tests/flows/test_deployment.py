"""The deployment on the real server: schedules, redeploys, a whole run, a killed worker, a cancellation."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.events.schemas.events import ResourceSpecification
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from components.storage.atomic import read_json
from components.storage.layout import STAGES
from flows.deploy import AUTOMATION
from flows.llm2clip import llm2clip
from tests.flows.conftest import Server, commit

pytestmark = pytest.mark.integration

DEADLINE_SECONDS = 420.0  # of a machine that is busy with other things
POLL_SECONDS = 0.5
SEEN = ("prefect.flow-run.heartbeat", "prefect.flow-run.Failed", "prefect.flow-run.Completed")


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


def _api(client: SyncPrefectClient, path: str, tree: dict[str, Any]) -> Any:
    return client._client.post(path, json=tree).json()


@pytest.fixture(scope="module")
def minutely(server: Server) -> UUID:
    """A schedule of every minute, added as in the UI, so without a slug; its runs are refused at once."""
    settings = {PREFECT_API_URL: server.api, PREFECT_API_AUTH_STRING: server.secret}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        schedule = DeploymentScheduleCreate(
            schedule=CronSchedule(cron="* * * * *"),
            active=True,
            parameters={"first_stage": "register", "last_stage": "download"},
            max_scheduled_runs=1,
        )
        return client.create_deployment_schedules(Deployment(client).id, [schedule])[0].id


def test_a_request_without_the_secret_is_refused(server: Server, minutely: UUID) -> None:
    paths = ("health", "admin/version", "csrf-token?client=x")
    assert [httpx.get(f"{server.api}/{path}").status_code for path in paths] == [200, 401, 401]
    assert (
        httpx.get(f"{server.api.removesuffix('/api')}/ui-settings").json()["auth"] == "BASIC"
    )  # the UI asks


def test_a_redeploy_keeps_what_people_did(
    server: Server, prefect_client: SyncPrefectClient, minutely: UUID
) -> None:
    client, deployment = prefect_client, Deployment(prefect_client).id
    weekly = next(found for found in client.read_deployment_schedules(deployment) if found.slug == "weekly")
    assert not weekly.active
    client.update_deployment_schedule(deployment, weekly.id, active=True)
    edited = {"parameters": {"preset": "smoke"}, "tags": ["mine"]}
    client._client.patch(f"/deployments/{deployment}", json=edited)
    automation = client.read_automations_by_name(AUTOMATION)[0]
    everybody_s = automation.trigger.model_copy(update={"match_related": ResourceSpecification({})})
    wide = AutomationCore(name=AUTOMATION, trigger=everybody_s, actions=automation.actions)
    client.update_automation(automation.id, wide)  # that of an older version

    path = server.folder / "prefect.yaml"
    text = path.read_text()
    path.write_text(text.replace("0 3 * * 0", "0 4 * * 1"))
    done = server.deploy()
    path.write_text(text)
    assert done.returncode == 0, done.stderr
    schedules = {found.id: found for found in client.read_deployment_schedules(deployment)}
    assert {number: found.active for number, found in schedules.items()} == {weekly.id: True, minutely: True}
    assert getattr(schedules[weekly.id].schedule, "cron", None) == "0 4 * * 1"  # which prefect.yaml changed
    assert client.read_deployment(deployment).parameters == edited["parameters"]
    assert client.read_deployment(deployment).tags == edited["tags"]
    rules = client.read_automations_by_name(AUTOMATION)
    assert [(rule.id, rule.trigger) for rule in rules] == [(automation.id, automation.trigger)]
    client.update_deployment_schedule(deployment, weekly.id, active=False)


def test_an_active_schedule_starts_a_run_and_its_refusal_takes_two_lines(
    prefect_client: SyncPrefectClient, minutely: UUID
) -> None:
    client, deployment = prefect_client, Deployment(prefect_client)
    query = {"flow_runs": {"state": {"type": {"any_": ["FAILED"]}}}, "sort": "START_TIME_ASC"}
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (runs := [run for run in _api(client, "/flow_runs/filter", query) if run["auto_scheduled"]]):
        assert time.monotonic() < deadline, "the schedule made no run that started"
        time.sleep(POLL_SECONDS)
    client.delete_deployment_schedule(deployment.id, minutely)
    message = "first stage register comes after last stage download; swap them"
    assert runs[0]["state"]["message"] == message
    last = f"Finished in state Failed('{message}')"
    number = UUID(runs[0]["id"])
    deployment.wait(number, lambda run: last in deployment.logs(run.id))
    assert deployment.logs(number)[-2:] == [message, last]
    assert deployment.tasks(number) == {}


def test_the_automation_sees_only_runs_of_this_flow(
    prefect_client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ours = llm2clip(return_state=True).state_details.flow_run_id  # by hand, and refused: no checkout
    other = flow(name="somebody-else-s")(lambda: None)(return_state=True).state_details.flow_run_id
    rule = prefect_client.read_automations_by_name(AUTOMATION)[0].trigger.model_dump(mode="json")
    trigger = EventTrigger.model_validate(rule)
    query = {"filter": {"resource": {"id": [f"prefect.flow-run.{run}" for run in (ours, other)]}}}
    seen: dict[tuple[str, bool], str] = {}
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len(seen) < 4:  # a heartbeat and an end of each
        assert time.monotonic() < deadline, seen
        time.sleep(POLL_SECONDS)
        for tree in _api(prefect_client, "/events/filter", query)["events"]:
            event = ReceivedEvent.model_validate(tree)
            if event.event in SEEN:
                assert trigger.covers(event) == (event.resource.id == f"prefect.flow-run.{ours}")
                seen[event.resource.id, event.event == SEEN[0]] = event.event


@pytest.mark.timeout(900)
def test_a_run_completes_and_a_stopped_one_leaves_nothing_alive(
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
    killed = _endless_run(deployment)
    worker = next(
        part for part in psutil.Process(server.process.pid).children() if "worker" in part.cmdline()
    )
    worker.send_signal(signal.SIGKILL)
    state = deployment.wait(killed, _is_over).state
    assert state is not None
    assert state.is_crashed()
    server.wait_until_said("Prefect's worker was killed by SIGKILL; starting it again; its log is ")

    endless = _endless_run(deployment)  # by the new worker
    prefect_client.set_flow_run_state(endless, Cancelling())
    state = deployment.wait(endless, _is_over).state
    assert state is not None
    assert state.is_cancelled()
    assert [line for line in server.left() if "components" in line or "dvc" in line] == []
    last_words = read_json(server.folder / ".work" / "train_clip" / "exit.json")
    assert last_words["exit_code"] == 143  # it saved a checkpoint first


def _endless_run(deployment: Deployment) -> UUID:
    run = deployment.run(preset="smoke", first_stage="train_clip", last_stage="train_clip")
    deployment.wait(run, lambda found: _is_over(found) or "progress-train-clip" in deployment.shown(run))
    assert deployment.tasks(run) == {"train_clip": "Running"}, deployment.logs(run)
    return run


def _with_steps(section: str, steps: int) -> str:
    """Give the first arm so many steps."""
    return re.sub(r"(?m)^( +steps:) \d+", rf"\1 {steps}", section, count=1)
