"""`python -m flows.deploy`: work pool, deployments and automation on the server of PREFECT_API_URL."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists

POOL = "llm2clip"
HEARTBEAT_SECONDS = 30  # the least that Prefect allows
MISSED_HEARTBEATS = 3
AUTOMATION = "Mark llm2clip runs without heartbeat as crashed"
FINAL_STATES = ("Completed", "Failed", "Cancelled", "Crashed")
log = logging.getLogger("llm2clip")


def deploy(project: Path) -> None:
    """Make or renew everything a run needs on the server.

    Args:
        project: The folder of prefect.yaml, where runs will start.
    """
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        except ObjectAlreadyExists:
            log.info("work pool %s is there", POOL)
    prefect = Path(sys.executable).with_name("prefect")
    subprocess.run([str(prefect), "--no-prompt", "deploy", "--all"], cwd=project, check=True)
    asyncio.run(_mark_dead_runs())


async def _mark_dead_runs() -> None:
    """Create the automation, unless it is there: only Prefect's cloud marks dead runs by itself."""
    beat = "prefect.flow-run.heartbeat"
    try:
        await Automation.aread(name=AUTOMATION)
        return
    except ValueError:
        log.info("creating the automation %r", AUTOMATION)
    await Automation(
        name=AUTOMATION,
        trigger=EventTrigger(
            after={beat},
            expect={beat, *(f"prefect.flow-run.{state}" for state in FINAL_STATES)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
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
    ).acreate()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    deploy(Path.cwd())
