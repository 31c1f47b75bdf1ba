"""Apply the schedules of prefect.yaml to a deployment, and keep what people changed in the UI.

A variable on the server holds what prefect.yaml said at the last deploy. Only differences from that are
applied, so a schedule that somebody switched, edited, added or deleted in the UI stays as it is.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, VariableCreate, VariableUpdate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import SCHEDULE_TYPES, construct_schedule

from components.errors import ConfigurationError

MEMORY = "llm2clip_last_deploy"  # a variable of the server
ASPECTS = ("active", "parameters")  # the other fields of an entry are its timing
Entry = dict[str, Any]  # a schedule in prefect.yaml
log = logging.getLogger("llm2clip")


def recall(client: SyncPrefectClient) -> dict[str, Any]:
    """Return what the last deploy stored, by the id of each deployment; empty before the first deploy."""
    variable = client.read_variable_by_name(MEMORY)
    return dict(variable.value) if variable and isinstance(variable.value, dict) else {}


def remember(client: SyncPrefectClient, said: dict[str, Any]) -> None:
    """Store what prefect.yaml says, for the next deploy."""
    if client.read_variable_by_name(MEMORY) is None:
        client.create_variable(VariableCreate(name=MEMORY, value=said))
    else:
        client.update_variable(VariableUpdate(name=MEMORY, value=said))


def by_slug(name: str, entries: list[Entry]) -> dict[str, Entry]:
    """Return the schedules of a deployment in prefect.yaml, by slug.

    Raises:
        ConfigurationError: one has no slug or another's slug, or its timing is missing or invalid.
    """
    slugs = [str(entry.get("slug") or "") for entry in entries]
    if not all(slugs) or len({*slugs}) < len(slugs):
        raise ConfigurationError(
            f"prefect.yaml: a schedule of deployment {name} has no slug, or another's; "
            "expected one each; a redeploy recognises the schedule by it"
        )
    schedules = {
        slug: {key: entry[key] for key in entry if key != "slug"}
        for slug, entry in zip(slugs, entries, strict=True)
    }
    for slug, entry in schedules.items():
        try:
            _schedule(entry)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"prefect.yaml: schedule {slug} of deployment {name}: {str(error).splitlines()[0]}; "
                "expected cron, interval or rrule, and timezone"
            ) from None
    return schedules


def apply_schedules(
    client: SyncPrefectClient, deployment: UUID, said: dict[str, Entry], last: dict[str, Entry]
) -> None:
    """Apply to the server what prefect.yaml has changed in its schedules since the last deploy.

    Args:
        client: Of the server.
        deployment: Id of the deployment.
        said: Schedules of prefect.yaml now, by slug.
        last: Schedules of prefect.yaml at the last deploy; empty if unknown.
    """
    present = {schedule.slug: schedule for schedule in client.read_deployment_schedules(deployment)}
    for slug, entry in said.items():
        if entry == last.get(slug):
            continue
        if slug not in present:
            client.create_deployment_schedules(deployment, [_new(slug, entry)])
        elif slug in last:
            _change(client, deployment, present[slug], entry, last[slug])
        else:
            log.info("schedule %s stays as it is on the server", slug)
    for slug in (last.keys() - said.keys()) & present.keys():
        log.warning(
            "schedule %s is no longer in prefect.yaml; the server still has it: delete it in the UI", slug
        )


def make_scheduled_runs(client: SyncPrefectClient, deployment: UUID, start: datetime) -> None:
    """Make the scheduled runs from `start` on again, which Prefect removes when a deployment changes.

    Its scheduler makes them too, but not a run that is due before its next look.
    """
    when = {"start_time": start.isoformat()}
    client.request("POST", "/deployments/{id}/schedule", path_params={"id": deployment}, json=when)


def _new(slug: str, entry: Entry) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(
        schedule=_schedule(entry),
        slug=slug,
        active=entry.get("active", True),
        parameters=entry.get("parameters") or {},
    )


def _change(
    client: SyncPrefectClient, deployment: UUID, schedule: DeploymentSchedule, entry: Entry, last: Entry
) -> None:
    if _timing(entry) != _timing(last):
        client.update_deployment_schedule(deployment, schedule.id, schedule=_schedule(entry))
    if entry.get("active") != last.get("active"):
        client.update_deployment_schedule(deployment, schedule.id, active=entry.get("active", True))
    if entry.get("parameters") != last.get("parameters"):
        client.update_deployment_schedule(deployment, schedule.id, parameters=entry.get("parameters") or {})


def _timing(entry: Entry) -> Entry:
    return {key: value for key, value in entry.items() if key not in ASPECTS}


def _schedule(entry: Entry) -> SCHEDULE_TYPES:
    return construct_schedule(**_timing(entry))
