"""`python -m flows.ui`: Prefect's server, the deployment and a worker on this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from components.errors import ConfigurationError, InfrastructureError, PipelineError
from flows.auth import CLIENT, server_secret, variables
from flows.processes import end_groups, spawn
from flows.server import (
    HEARTBEAT_SECONDS,
    HOST,
    PREFECT,
    ending,
    last_line,
    require_home,
    start_server,
    wait_for,
)

POLL_SECONDS = 0.25
EARLY_SECONDS = 60.0  # a worker that ends sooner likely has a lasting cause
EARLY_ENDS = 3  # in a row that are tolerated
WORKER = (PREFECT, "worker", "start", "--pool", "llm2clip", "--type", "process")
log = logging.getLogger("llm2clip")


def serve(project: Path, port: int) -> None:
    """Run everything until SIGINT or SIGTERM, then stop it.

    Args:
        project: The folder of prefect.yaml; Prefect's own files go to `.prefect/` in it.
        port: Of the server, on loopback.

    Raises:
        ConfigurationError: the port is taken.
        InfrastructureError: a part did not start, or ended by itself; the message names its log.
    """
    _require_free(port)
    api = f"http://{HOST}:{port}/api"
    home = project / ".prefect"
    require_home(home, private=True)
    secret, file = server_secret(home)
    environment = _environment(home, api, secret)
    parts: dict[str, subprocess.Popen[bytes]] = {}

    def start_worker() -> None:
        with (home / "worker.log").open("ab") as output:
            parts["worker"] = spawn(list(WORKER), project, environment, output)

    try:
        log.info("starting the server")
        parts["server"] = start_server(port, project, environment, home / "server.log")
        wait_for(api, parts["server"], home / "server.log")
        log.info("deploying")
        if status := _module("flows.deploy", project, environment, home / "deploy.log"):
            raise InfrastructureError(
                f"the deployment was not made ({status}); {last_line(home / 'deploy.log')}"
            )
        start_worker()
        _welcome(port, api, home, file)
        _watch(parts, home, start_worker)
    finally:
        log.info("stopping")
        if "worker" in parts:
            _module("flows.cancel", project, environment, home / "cancel.log")
        for name in reversed(parts):
            end_groups([parts[name]])


def _welcome(port: int, api: str, home: Path, file: Path | None) -> None:
    print_command = f"cat {shlex.quote(str(file))}"
    log.info("UI: http://%s:%d", HOST, port)
    log.info(
        "it asks for a password: %s",
        f"the output of `{print_command}`" if file else "the secret that you set",
    )
    log.info("for other shells:\n  export PREFECT_API_URL=%s", api)
    log.info("  export %s=%s", CLIENT, f'"$({print_command})"' if file else "... # the secret that you set")
    log.info("to start a run:\n  %s deployment run llm2clip/full --watch", PREFECT)
    log.info("logs are in %s; Ctrl-C stops it all", home)


def _environment(home: Path, api: str, secret: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    bin_folder = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([bin_folder, environment.get("PATH", os.defpath)])
    return environment | {
        **variables(secret),
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": api.removesuffix("/api"),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES": "false",
        "DO_NOT_TRACK": "1",
    }


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigurationError(
                f"port {port} of {HOST} cannot be used ({error.strerror}); is `make ui` running already? "
                f"else choose another: make ui PORT={port + 1}"
            ) from None


def _module(name: str, project: Path, environment: dict[str, str], output: Path) -> int:
    """Run a module that talks to the server in its own process; this one has the user's Prefect settings."""
    with output.open("wb") as file:
        process = spawn([sys.executable, "-m", name], project, environment, file)
    try:
        return process.wait()
    finally:
        end_groups([process])


def _watch(parts: dict[str, subprocess.Popen[bytes]], home: Path, start_worker: Callable[[], None]) -> None:
    """Start the worker again whenever it ends, until the server ends or the worker keeps ending early.

    Raises:
        InfrastructureError: which part ended, how, and where its log is.
    """
    early_ends, start_seconds = 0, time.monotonic()
    while (status := parts["server"].poll()) is None:
        if (status := parts["worker"].poll()) is not None:
            early_ends = early_ends + 1 if time.monotonic() - start_seconds < EARLY_SECONDS else 1
            if early_ends > EARLY_ENDS:
                raise InfrastructureError(
                    f"Prefect's worker {ending(status)}, the {early_ends}th time in a row within "
                    f"{EARLY_SECONDS:.0f} s of its start; {last_line(home / 'worker.log')}"
                )
            log.warning(
                "Prefect's worker %s; starting it again; its log is %s", ending(status), home / "worker.log"
            )
            end_groups([parts["worker"]])
            start_worker()
            start_seconds = time.monotonic()
        time.sleep(POLL_SECONDS)
    raise InfrastructureError(f"Prefect's server {ending(status)}; {last_line(home / 'server.log')}")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Read the command line and serve; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4200, help="of the server, on loopback (default 4200)")
    port = parser.parse_args().port
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        serve(Path.cwd(), port)
    except KeyboardInterrupt:
        return 0
    except PipelineError as error:
        log.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
