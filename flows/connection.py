"""Connect a command to a Prefect server, or report in one line why that fails."""

from __future__ import annotations

import contextvars
import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_HOME,
    get_current_settings,
    temporary_settings,
)

from components.errors import ConfigurationError, InfrastructureError, PipelineError
from flows.auth import CLIENT, FILE, new_secret, variables
from flows.processes import end_groups
from flows.server import HEARTBEAT_SECONDS, HOST, require_home, start_server, wait_for

ANSWER_SECONDS = 10.0  # for one small request to any server
EXPECTED = "expected a Prefect server; start it, or correct PREFECT_API_URL"
DRAIN_SECONDS = 5.0
REFUSED = (401, 403)
TRY_AGAIN = 429
BROKEN = 500  # and above
log = logging.getLogger("llm2clip")


def exit_code(command: Callable[[], int]) -> int:
    """Run a command that talks to Prefect's server; log an error as one line and return its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request
    try:
        return command()
    except (PipelineError, httpx.HTTPError) as error:
        pipeline_error = error if isinstance(error, PipelineError) else _pipeline_error(error)
        log.error("%s", pipeline_error)
        return pipeline_error.exit_code


def require_server() -> None:
    """Check that the server of PREFECT_API_URL answers a small request, in bounded time.

    Raises:
        ConfigurationError: no address is set, it is not a Prefect server's, or the login is refused.
        InfrastructureError: the server does not answer, or reports an error.
    """
    if not PREFECT_API_URL.value():
        raise ConfigurationError(
            "PREFECT_API_URL is not set; expected the address of a Prefect server; `make ui` starts one"
        )
    errors: list[Exception] = []

    def ask() -> None:
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
                client.read_flows(limit=1)
        except Exception as error:  # anything may answer at a wrong address
            errors.append(error)

    # a client's own timeouts are for each read: a server that sends a byte a second would never hit them
    thread = threading.Thread(target=contextvars.copy_context().run, args=(ask,), daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if thread.is_alive():
        raise InfrastructureError(f"{_address()} does not answer within {ANSWER_SECONDS:.0f} s; {EXPECTED}")
    if errors:
        raise _pipeline_error(errors[0])


@contextmanager
def server_in_use() -> Iterator[None]:
    """Use the server of PREFECT_API_URL; if unset, start one for the block, for this process alone.

    Raises:
        PipelineError: the server does not answer, or does not start.
    """
    heartbeat = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: HEARTBEAT_SECONDS}
    if PREFECT_API_URL.value():
        require_server()
        with temporary_settings(heartbeat):
            yield
        return
    home = PREFECT_HOME.value()
    require_home(home)
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    api, output, secret = f"http://{HOST}:{port}/api", home / "llm2clip-server.log", new_secret()
    environment = {
        **os.environ,
        **get_current_settings().to_environment_variables(exclude_unset=True),
        **variables(secret),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT__SERVER_EPHEMERAL": "1",  # as Prefect's own: no UI, and no runs of others' schedules
    }
    server = start_server(port, home, environment, output)
    try:
        wait_for(api, server, output)
        with temporary_settings({**heartbeat, PREFECT_API_URL: api, PREFECT_API_AUTH_STRING: secret}):
            yield
            APILogHandler().flush()  # later there is no server to send it to
            EventsWorker.drain_all(timeout=DRAIN_SECONDS)
    finally:
        end_groups([server])


def _pipeline_error(error: Exception) -> PipelineError:
    """Return the pipeline error that a failed request means."""
    status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
    if status in REFUSED and "/api" in _address():
        return ConfigurationError(
            f"{_address()} refuses the login ({status}); expected {CLIENT} to be the server's secret; "
            f'for the server of `make ui`: export {CLIENT}="$(cat .prefect/{FILE})"'
        )
    reason = f"{status}" if status else (str(error).splitlines() or [type(error).__name__])[0]
    is_wrong_address = isinstance(error, httpx.UnsupportedProtocol | httpx.DecodingError)
    if status is not None and (status == TRY_AGAIN or status >= BROKEN):
        return InfrastructureError(f"{_address()} reports an error ({reason}); {EXPECTED}")
    if isinstance(error, httpx.TransportError) and not is_wrong_address:
        return InfrastructureError(f"{_address()} does not answer ({reason}); {EXPECTED}")
    return ConfigurationError(
        f"{_address()} is not a Prefect API ({reason}); expected an address such as "
        "http://127.0.0.1:4200/api; correct PREFECT_API_URL"
    )


def _address() -> str:
    return re.sub(r"//[^/@]*@", "//", str(PREFECT_API_URL.value()))  # without a password in it
