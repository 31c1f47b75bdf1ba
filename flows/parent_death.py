"""`python parent_death.py PARENT COMMAND...`: become COMMAND, which gets SIGTERM when process PARENT dies.

It imports the standard library alone, so starting a process through it costs milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1  # linux/prctl.h
POLL_SECONDS = 0.5
STOPPED = 143


def die_with(parent: int) -> None:
    """Have the kernel send this process SIGTERM when its parent dies; Linux only.

    To the kernel the parent is the thread that started this process, so that thread must wait for its end.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(STOPPED)


def watch(parent: int, command: list[str]) -> int:
    """Run a command in this process group and end the group when the parent dies; any POSIX system."""
    process = subprocess.Popen(command)
    while process.poll() is None:
        if os.getppid() != parent:
            os.killpg(os.getpgrp(), signal.SIGTERM)
        time.sleep(POLL_SECONDS)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


if __name__ == "__main__":
    if sys.platform == "linux":
        die_with(int(sys.argv[1]))
        os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - a list, without a shell
    sys.exit(watch(int(sys.argv[1]), sys.argv[2:]))
