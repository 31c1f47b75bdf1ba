"""The server that a command of Prefect talks to: it answers, or the command says in one line why not."""

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

ANSWER_SECONDS = 10.0  # of any server, for one small question
EXPECTED = "expected a Prefect server; start it, or correct PREFECT_API_URL"
DRAIN_SECONDS = 5.0
REFUSED = (401, 403)
TRY_AGAIN = 429
BROKEN = 500  # and above
log = logging.getLogger("llm2clip")


def exit_code(command: Callable[[], int]) -> int:
    """Run a command that talks to Prefect's server; log a fault as one line and return its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request
    try:
        return command()
    except (PipelineError, httpx.HTTPError) as error:
        fault = error if isinstance(error, PipelineError) else _fault(error)
        log.error("%s", fault)
        return fault.exit_code


def require_server() -> None:
    """Ask the server of PREFECT_API_URL something small, in bounded time.

    Raises:
        ConfigurationError: no address is set, it is none of a Prefect server, or the login is refused.
        InfrastructureError: the server does not answer, or says that it is broken.
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

    # a client's own timeouts are for each read: a server that sends a byte a second would never end it
    thread = threading.Thread(target=contextvars.copy_context().run, args=(ask,), daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if thread.is_alive():
        raise InfrastructureError(f"{_address()} does not answer within {ANSWER_SECONDS:.0f} s; {EXPECTED}")
    if errors:
        raise _fault(errors[0])


@contextmanager
def server_in_use() -> Iterator[None]:
    """Use the server of PREFECT_API_URL; without one, a server of this process alone for the block.

    Raises:
        PipelineError: the server does not answer, or does not start.
    """
    beat = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: HEARTBEAT_SECONDS}
    if PREFECT_API_URL.value():
        require_server()
        with temporary_settings(beat):
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
        "PREFECT__SERVER_EPHEMERAL": "1",  # as Prefect's own: no UI, and no schedules of others are run
    }
    server = start_server(port, home, environment, output)
    try:
        wait_for(api, server, output)
        with temporary_settings({**beat, PREFECT_API_URL: api, PREFECT_API_AUTH_STRING: secret}):
            yield
            APILogHandler().flush()  # what is not sent by now has no server to go to
            EventsWorker.drain_all(timeout=DRAIN_SECONDS)
    finally:
        end_groups([server])


def _fault(error: Exception) -> PipelineError:
    """Say in one line what a failed request means."""
    status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
    if status in REFUSED and "/api" in _address():
        return ConfigurationError(
            f"{_address()} refuses the login ({status}); expected {CLIENT} to be the server's secret; "
            f'that of `make ui`: export {CLIENT}="$(cat .prefect/{FILE})"'
        )
    reason = f"{status}" if status else (str(error).splitlines() or [type(error).__name__])[0]
    wrong = isinstance(error, httpx.UnsupportedProtocol | httpx.DecodingError)
    if status is not None and (status == TRY_AGAIN or status >= BROKEN):
        return InfrastructureError(f"{_address()} is in trouble ({reason}); {EXPECTED}")
    if isinstance(error, httpx.TransportError) and not wrong:
        return InfrastructureError(f"{_address()} does not answer ({reason}); {EXPECTED}")
    return ConfigurationError(
        f"{_address()} is no API of Prefect ({reason}); expected an address such as "
        "http://127.0.0.1:4200/api; correct PREFECT_API_URL"
    )


def _address() -> str:
    return re.sub(r"//[^/@]*@", "//", str(PREFECT_API_URL.value()))  # without a password in it
