"""Measure a command and all its processes: CPU and wall seconds, and peak memory (proportional set size)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS_BETWEEN_LOOKS = 0.05
PAUSE_IN_LOOKS = 50  # minimum pause between two looks, in multiples of the time of a look
KIBIBYTE = 1024
BLOCK_BYTES = 512  # of ru_oublock


@dataclass(frozen=True)
class Cost:
    """Cost of one command with its descendants."""

    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int  # proportional set size, summed over all its processes at one moment
    written_bytes: int  # to file systems on disks


def run_measured(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Cost:
    """Run a command to its end.

    Raises:
        SystemExit: the command failed; the message has its last lines.
    """
    log = folder / "command.log"
    start_seconds = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environment}, stdout=file, stderr=subprocess.STDOUT
        )
        peak = Peak(lambda: sum(_pss(pid) for pid in _tree(process.pid)))
        _, status, usage = os.wait4(process.pid, 0)
        wall_seconds = time.monotonic() - start_seconds
        peak.stop()
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)} failed:\n" + "\n".join(log.read_text("utf-8").splitlines()[-20:]))
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Cost(cpu_seconds, wall_seconds, peak.bytes, usage.ru_oublock * BLOCK_BYTES)


class Peak(threading.Thread):
    """Watches memory from its creation until `stop`; `bytes` is the largest value that `look` returned."""

    def __init__(self, look: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self._look, self._is_over = look, threading.Event()
        self.start()

    def run(self) -> None:
        """Look repeatedly until `stop`."""
        pause_seconds = SECONDS_BETWEEN_LOOKS
        while not self._is_over.wait(pause_seconds):
            start_seconds = time.monotonic()
            self.bytes = max(self.bytes, self._look())
            # a look at gigabytes takes long, and the watched process stands still meanwhile
            spent_seconds = time.monotonic() - start_seconds
            pause_seconds = max(SECONDS_BETWEEN_LOOKS, PAUSE_IN_LOOKS * spent_seconds)

    def stop(self) -> None:
        """Stop looking."""
        self._is_over.set()
        self.join()


def _tree(process: int) -> list[int]:
    pids = [process]
    for pid in pids:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                pids += [int(child) for child in children.read_text().split()]
            except OSError:  # the process has just ended
                continue
    return pids


def _pss(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # the process has just ended
        return 0
    return next((int(line.split()[1]) * KIBIBYTE for line in lines if line.startswith("Pss:")), 0)


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
