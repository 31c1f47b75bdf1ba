"""`python -m flows.deploy`: make work pool, deployments and automation on the server of PREFECT_API_URL."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from components.errors import ConfigurationError
from flows.connection import exit_code, require_server
from flows.schedules import apply_schedules, by_slug, make_scheduled_runs, recall, remember
from flows.server import HEARTBEAT_SECONDS, PREFECT

POOL = FLOW = "llm2clip"
MISSED_HEARTBEATS = 3
AUTOMATION = "Mark llm2clip runs without heartbeat as crashed"
FINAL_STATES = ("Completed", "Failed", "Cancelled", "Crashed")
HEARTBEAT = "prefect.flow-run.heartbeat"
# fields that people edit in the UI, with Prefect's defaults
EDITED: dict[str, Any] = {"parameters": {}, "paused": False, "tags": []}
Entry = dict[str, Any]  # a deployment in prefect.yaml
log = logging.getLogger("llm2clip")


def deploy(project: Path) -> None:
    """Make or update everything on the server that a run needs.

    What people changed in the UI, in schedules, parameters and tags, stays. A paused deployment stays paused.
    Only fields that prefect.yaml changed since the last deploy are set.

    Args:
        project: The folder of prefect.yaml, where runs will start.

    Raises:
        ConfigurationError: prefect.yaml cannot be read, or Prefect rejects it.
    """
    tree = _read(project / "prefect.yaml")
    schedules = {
        entry["name"]: by_slug(entry["name"], entry.pop("schedules", None) or [])
        for entry in tree["deployments"]
    }
    declared = {
        entry["name"]: {field: entry.get(field) or default for field, default in EDITED.items()}
        for entry in tree["deployments"]
    }
    start = datetime.now(UTC)
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        except ObjectAlreadyExists:
            log.info("work pool %s exists", POOL)
        last = recall(client)
        for entry in tree["deployments"]:
            _keep_edited(client, entry, declared[entry["name"]], last)
        _run_prefect(project, tree)
        remembered = {}
        for name in schedules:
            deployment = client.read_deployment_by_name(f"{FLOW}/{name}")
            last_schedules = last.get(str(deployment.id), {}).get("schedules", {})
            apply_schedules(client, deployment.id, schedules[name], last_schedules)
            remembered[str(deployment.id)] = {**declared[name], "schedules": schedules[name]}
            if not deployment.paused:
                make_scheduled_runs(client, deployment.id, start)
        remember(client, remembered)
        mark_dead_runs(client)


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = YAML(typ="safe").load(path.read_text("utf-8"))
        names = [entry["name"] for entry in tree["deployments"]]
    except (OSError, YAMLError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(
            f"{path} cannot be read ({reason}); expected Prefect's deployments"
        ) from None
    if len({*names}) < len(names):
        raise ConfigurationError(f"{path}: two deployments have one name; expected a name for each")
    return dict(tree)


def _keep_edited(client: SyncPrefectClient, entry: Entry, declared: Entry, last: dict[str, Entry]) -> None:
    """Copy the server's values to an entry, where prefect.yaml is unchanged since the last deploy."""
    try:
        existing = client.read_deployment_by_name(f"{FLOW}/{entry['name']}")
    except ObjectNotFound:
        return
    last_declared = last.get(str(existing.id), declared)
    entry.update(
        {field: getattr(existing, field) for field in EDITED if last_declared.get(field) == declared[field]}
    )
    try:
        schema = parameter_schema(load_flow_from_entrypoint(entry["entrypoint"])).model_dump()
    except Exception as error:  # whatever the file does when it is imported
        raise ConfigurationError(
            f"prefect.yaml: the flow of deployment {entry['name']} cannot be loaded ({error!r}); "
            "expected an entrypoint such as flows/llm2clip.py:llm2clip"
        ) from None
    if errors := validate(entry.get("parameters") or {}, schema, ignore_required=True):
        log.warning(
            "parameters of %s on the server are no longer valid (%s); using those of prefect.yaml",
            entry["name"],
            errors[0].message,
        )
        entry["parameters"] = declared["parameters"]


def _run_prefect(project: Path, tree: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prefect.yaml"
        YAML(typ="safe").dump(tree, path)
        command = [PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
        result = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    log.info("%s", result.stdout.strip())
    if result.returncode:
        lines = [line for line in f"{result.stdout}\n{result.stderr}".splitlines() if line.strip()]
        raise ConfigurationError(f"Prefect rejects prefect.yaml: {lines[-1] if lines else result.returncode}")


def mark_dead_runs(client: SyncPrefectClient) -> None:
    """Make or update the automation that ends dead runs of this flow; only Prefect's cloud has its own."""
    automation = AutomationCore(
        name=AUTOMATION,
        trigger=EventTrigger(
            after={HEARTBEAT},
            expect={HEARTBEAT, *(f"prefect.flow-run.{state}" for state in FINAL_STATES)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": ["flow"], "prefect.resource.name": [FLOW]}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=HEARTBEAT_SECONDS * MISSED_HEARTBEATS),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message="no heartbeat: the process or its machine is gone"
            )
        ],
    )
    present = client.read_automations_by_name(AUTOMATION)
    for duplicate in present[1:]:
        client.delete_automation(duplicate.id)
    if not present:
        client.create_automation(automation)
    elif _differs(present[0], automation):
        client.update_automation(present[0].id, automation.model_copy(update={"enabled": present[0].enabled}))


def _differs(present: AutomationCore, expected: AutomationCore) -> bool:
    trees = [
        automation.model_dump(mode="json", include={"trigger", "actions"})
        for automation in (present, expected)
    ]
    for tree in trees:
        tree["trigger"].pop("id", None)
    return trees[0] != trees[1]


def main() -> int:
    """Deploy from the current folder; return the exit code.

    Raises:
        PipelineError: the server cannot be used, or prefect.yaml cannot be deployed.
    """
    require_server()
    deploy(Path.cwd())
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
