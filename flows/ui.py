"""`python -m flows.ui`: Prefect's server, the deployment and a worker on this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType

from components.faults import ConfigurationFault, Fault, InfrastructureFault
from flows.processes import end_groups, spawn

HOST = "127.0.0.1"  # never open to the network: whoever reaches the server may run code
START_SECONDS = 180.0
POLL_SECONDS = 0.25
HEARTBEAT_SECONDS = 30
log = logging.getLogger("llm2clip")


def serve(project: Path, port: int) -> None:
    """Run everything until SIGINT or SIGTERM, then stop it.

    Args:
        project: The folder of prefect.yaml; Prefect's own files go to `.prefect/` in it.
        port: Of the server, on loopback.

    Raises:
        ConfigurationFault: the port is taken.
        InfrastructureFault: a part did not start, or ended by itself; names its log.
    """
    _require_free(port)
    api = f"http://{HOST}:{port}/api"
    home = project / ".prefect"
    home.mkdir(exist_ok=True)
    environment = _environment(home, api)
    prefect = str(Path(sys.executable).with_name("prefect"))
    parts: dict[str, subprocess.Popen[bytes]] = {}

    def start(name: str, *command: str) -> None:
        with (home / f"{name}.log").open("ab") as output:
            parts[name] = spawn(list(command), project, environment, output)

    try:
        log.info("starting the server")
        start("server", prefect, "server", "start", "--host", HOST, "--port", str(port))
        _wait_for(api, parts["server"], home / "server.log")
        log.info("deploying")
        if status := _module("flows.deploy", project, environment, home / "deploy.log"):
            raise InfrastructureFault(
                f"the deployment was not made ({status}); {_last_line(home / 'deploy.log')}"
            )
        start("worker", prefect, "worker", "start", "--pool", "llm2clip", "--type", "process")
        log.info("UI: http://%s:%d", HOST, port)
        log.info("for other shells:\n  export PREFECT_API_URL=%s", api)
        log.info("to start a run:\n  %s deployment run llm2clip/full --watch", prefect)
        log.info("logs are in %s; Ctrl-C stops it all", home)
        _watch(parts, home)
    finally:
        log.info("stopping")
        if "worker" in parts:
            _module("flows.cancel", project, environment, home / "cancel.log")
        for name in reversed(parts):
            end_groups([parts[name]])


def _environment(home: Path, api: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    beside = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([beside, environment.get("PATH", os.defpath)])
    return environment | {
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
            raise ConfigurationFault(
                f"port {port} of {HOST} cannot be used ({error.strerror}); is `make ui` running already? "
                f"else choose another: make ui PORT={port + 1}"
            ) from None


def _wait_for(api: str, server: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=5):  # noqa: S310 - a loopback address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_SECONDS)
    raise InfrastructureFault(f"Prefect's server did not start; {_last_line(output)}")


def _module(name: str, project: Path, environment: dict[str, str], output: Path) -> int:
    """Run a module that talks to the server, apart from this process, whose Prefect is the user's."""
    with output.open("wb") as file:
        process = spawn([sys.executable, "-m", name], project, environment, file)
    try:
        return process.wait()
    finally:
        end_groups([process])


def _watch(parts: dict[str, subprocess.Popen[bytes]], home: Path) -> None:
    while True:
        for name, part in parts.items():
            if part.poll() is not None:
                raise InfrastructureFault(f"Prefect's {name} ended; {_last_line(home / f'{name}.log')}")
        time.sleep(POLL_SECONDS)


def _last_line(output: Path) -> str:
    lines = output.read_text(errors="replace").split("\n")
    return f"{output} ends with: {next((line for line in reversed(lines) if line.strip()), 'nothing')}"


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
    except Fault as fault:
        log.error("%s", fault)
        return fault.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
