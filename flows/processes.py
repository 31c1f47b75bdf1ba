"""Process groups that end with the program that started them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

PARENT_DEATH = Path(__file__).with_name("parent_death.py")
GRACE_SECONDS = 20.0  # Prefect kills a flow 30 seconds after it asked it to stop
POLL_SECONDS = 0.1
TICK_SECONDS = 1.0
CHUNK_BYTES = 1 << 16


class GroupsStopped(Exception):
    """The groups were stopped; no further command is started."""


def spawn(
    command: list[str], folder: Path, environment: dict[str, str], output: IO[bytes] | int
) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own that gets SIGTERM when the calling thread ends."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(PARENT_DEATH), str(os.getpid()), *command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        process_group=0,
    )


def end_groups(leaders: list[subprocess.Popen[bytes]], grace_seconds: float = GRACE_SECONDS) -> None:
    """Send SIGTERM to process groups, and SIGKILL to those that still run after the grace period."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for leader in leaders:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader.pid, number)
        deadline = time.monotonic() + grace_seconds
        while (leaders := [leader for leader in leaders if _alive(leader)]) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


class Groups:
    """The process groups of one flow run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leaders: list[subprocess.Popen[bytes]] = []
        self._is_stopped = False

    def run(
        self,
        command: list[str],
        folder: Path,
        environment: dict[str, str],
        on_line: Callable[[str], None],
        on_tick: Callable[[], None] = lambda: None,
    ) -> int:
        """Run a command to its end and return its exit status, negative after a signal.

        Args:
            command: Program and arguments.
            folder: Where it runs.
            environment: Its whole environment.
            on_line: Gets each line of its output as it comes.
            on_tick: Called about every second.

        Raises:
            GroupsStopped: `stop` was called before or during the run.
        """
        with self._lock:
            if self._is_stopped:
                raise GroupsStopped
            process = spawn(command, folder, environment, subprocess.PIPE)
            self._leaders.append(process)
        try:
            for line in _lines(process, on_tick):
                on_line(line)
            status = process.wait()
        except BaseException:
            end_groups([process])
            process.wait()
            raise
        finally:
            with self._lock:
                self._leaders.remove(process)
        if self._is_stopped:
            raise GroupsStopped
        return status

    def stop(self) -> None:
        """End all running groups; commands that come later are not started."""
        with self._lock:
            self._is_stopped = True
            leaders = list(self._leaders)
        end_groups(leaders)


def _lines(process: subprocess.Popen[bytes], on_tick: Callable[[], None]) -> Iterator[str]:
    """Yield lines until every process that holds the pipe has ended."""
    assert process.stdout is not None  # noqa: S101 - for mypy: it is a pipe
    descriptor, partial = process.stdout.fileno(), b""
    with process.stdout:
        while True:
            ready, _, _ = select.select([descriptor], [], [], TICK_SECONDS)
            if ready:
                data = os.read(descriptor, CHUNK_BYTES)
                if not data:
                    break
                *complete, partial = (partial + data).replace(b"\r", b"\n").split(b"\n")
                yield from (line.decode(errors="replace").rstrip() for line in complete if line.strip())
            on_tick()
    if partial.strip():
        yield partial.decode(errors="replace").rstrip()


def _alive(leader: subprocess.Popen[bytes]) -> bool:
    leader.poll()  # an ended leader counts as alive until it is waited for
    try:
        os.killpg(leader.pid, 0)
    except ProcessLookupError:
        return False
    return True
