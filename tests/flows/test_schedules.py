"""What a redeploy does to schedules: only what prefect.yaml has changed since the last one."""

from __future__ import annotations

import logging
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule

from components.errors import ConfigurationError
from flows.schedules import apply_schedules, by_slug

DEPLOYMENT = uuid4()
SUNDAY, MONDAY = "0 3 * * 0", "0 4 * * 1"
SAID: dict[str, Any] = {"weekly": {"cron": SUNDAY, "timezone": "UTC", "active": False}}


class Recorder:
    """A server with some schedules, that notes what is asked of it."""

    def __init__(self, *slugs: str | None) -> None:
        self.slugs = slugs
        self.asked: list[Any] = []

    def read_deployment_schedules(self, _: UUID) -> list[DeploymentSchedule]:
        return [DeploymentSchedule(slug=slug, schedule=CronSchedule(cron="5 5 * * *")) for slug in self.slugs]

    def create_deployment_schedules(self, _: UUID, schedules: list[DeploymentScheduleCreate]) -> None:
        self.asked += [
            ("create", new.slug, new.active, getattr(new.schedule, "cron", None)) for new in schedules
        ]

    def update_deployment_schedule(self, _deployment: UUID, _schedule: UUID, **fields: Any) -> None:
        self.asked += [(name, getattr(value, "cron", value)) for name, value in fields.items()]


def _asked(recorder: Recorder, said: dict[str, Any], last: dict[str, Any]) -> list[Any]:
    apply_schedules(cast(SyncPrefectClient, recorder), DEPLOYMENT, said, last)
    return recorder.asked


@pytest.mark.parametrize(
    ("slugs", "change", "asked"),
    [
        (["weekly", None], {}, []),  # whatever people made of it in the UI
        ([None], {}, []),  # deleted in the UI
        (["weekly"], {"cron": MONDAY}, [("schedule", MONDAY)]),  # on or off as people left it
        (["weekly"], {"active": True}, [("active", True)]),
        (["weekly"], {"parameters": {"push": True}}, [("parameters", {"push": True})]),
        ([None], {"cron": MONDAY}, [("create", "weekly", False, MONDAY)]),
    ],
)
def test_only_what_prefect_yaml_has_changed_is_applied(
    slugs: list[str | None], change: dict[str, Any], asked: list[Any]
) -> None:
    said = {"weekly": {**SAID["weekly"], **change}}
    assert _asked(Recorder(*slugs), said, SAID) == asked


def test_what_the_last_deploy_did_not_know(caplog: pytest.LogCaptureFixture) -> None:
    assert _asked(Recorder(), SAID, {}) == [("create", "weekly", False, SUNDAY)]
    assert _asked(Recorder("weekly"), SAID, {}) == []  # made by an older version: may be edited
    assert _asked(Recorder("weekly"), {}, SAID) == []
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == [
        "schedule weekly is no longer in prefect.yaml; the server still has it: delete it in the UI"
    ]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{"cron": SUNDAY}], "a schedule of deployment full has no slug, or another's; expected one each"),
        ([{"cron": SUNDAY, "slug": "a"}, {"cron": MONDAY, "slug": "a"}], "has no slug, or another's"),
        (
            [{"cron": "every week", "slug": "a"}],
            "schedule a of deployment full: .*; expected cron, interval",
        ),
        ([{"cron": SUNDAY, "slug": "a", "timezone": "Mars"}], "schedule a of deployment full: "),
        ([{"crom": SUNDAY, "slug": "a"}], "schedule a of deployment full: .*crom"),
    ],
)
def test_a_schedule_that_cannot_be_understood_is_refused(entries: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        by_slug("full", entries)
