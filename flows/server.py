"""Start Prefect's server on this machine, wait until it answers, and explain how it ended."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from components.errors import ConfigurationError, InfrastructureError
from flows.processes import spawn

HOST = "127.0.0.1"  # never open to the network: everyone who reaches the server may run code
HEARTBEAT_SECONDS = 30  # the minimum that Prefect allows
START_SECONDS = 180.0
POLL_SECONDS = 0.25
TAIL_LINES = 30
ERROR = re.compile(r"[\w.]+(Error|Exception|PipelineError)\b.*:")  # the last line of a traceback
PREFECT = str(Path(sys.executable).with_name("prefect"))


def require_home(home: Path, *, private: bool = False) -> None:
    """Make Prefect's folder, which holds its database, unless it exists.

    Args:
        home: The folder.
        private: Allow only its owner to enter it.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
        if private:
            home.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(
            f"{home} cannot be written ({error.strerror}); expected a folder for Prefect's database; "
            "make it writable or, without `make ui`, set PREFECT_HOME to another"
        ) from None


def start_server(
    port: int, folder: Path, environment: dict[str, str], output: Path
) -> subprocess.Popen[bytes]:
    """Start a server on loopback in a folder; its output is appended to a file."""
    command = [PREFECT, "server", "start", "--host", HOST, "--port", str(port)]
    with output.open("ab") as file:
        return spawn(command, folder, environment, file)


def wait_for(api: str, server: subprocess.Popen[bytes], output: Path) -> None:
    """Wait until a server answers; its health endpoint needs no login.

    Raises:
        InfrastructureError: it ended, or does not answer in time; the message names its log.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=5):  # noqa: S310 - a loopback address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_SECONDS)
    raise InfrastructureError(f"Prefect's server did not start; {last_line(output)}")


def ending(status: int) -> str:
    """Describe how a process ended, from its exit status: negative or above 128 after a signal."""
    number = -status if status < 0 else status - 128
    try:
        return f"was killed by {signal.Signals(number).name}"
    except ValueError:
        return f"ended with exit code {status}"


def last_line(output: Path) -> str:
    """Return a log's path and the line that best explains its end: the last error, or else the last line."""
    lines = [
        line.strip() for line in output.read_text(errors="replace").split("\n")[-TAIL_LINES:] if line.strip()
    ]
    errors = [line for line in lines if ERROR.match(line)]
    return f"{output} ends with: {[*lines, *errors][-1] if lines else 'nothing'}"
