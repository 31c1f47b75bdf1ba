"""`python -m flows.cancel`: cancel all runs on the server of PREFECT_API_URL, and wait until they end."""

from __future__ import annotations

import logging
import sys
import time

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterState
from prefect.client.schemas.filters import FlowRunFilterStateType as StateIn
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Cancelling

from flows.connection import exit_code, require_server

PATIENCE_SECONDS = 45.0  # Prefect gives a run 30 seconds to end
POLL_SECONDS = 0.5
IN_PROGRESS = [StateType.PENDING, StateType.RUNNING, StateType.PAUSED]
log = logging.getLogger("llm2clip")


def cancel_runs() -> bool:
    """Cancel all runs through the worker, as the UI does; return whether every run has ended."""
    with get_client(sync_client=True) as client:
        for run in _runs(client, IN_PROGRESS):
            log.info("cancelling %s", run.name)
            client.set_flow_run_state(run.id, Cancelling(message="`make ui` was stopped"))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while _runs(client, [*IN_PROGRESS, StateType.CANCELLING]):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
    return True


def _runs(client: SyncPrefectClient, states: list[StateType]) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=["llm2clip"])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=StateIn(any_=states))),
    )


def main() -> int:
    """Cancel all runs; return 1 if one does not end."""
    require_server()
    return int(not cancel_runs())


if __name__ == "__main__":
    sys.exit(exit_code(main))
