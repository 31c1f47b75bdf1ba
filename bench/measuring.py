"""What a command and all its processes cost: CPU and wall seconds, and peak memory as Linux shares it out."""

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
PAUSE_IN_LOOKS = 50  # the pause between two, at least, in times of what a look takes
KIBIBYTE = 1024


@dataclass(frozen=True)
class Cost:
    """Of one command with its descendants."""

    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int  # proportional set size, summed over all its processes at one moment


def run_measured(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Cost:
    """Run a command to its end.

    Raises:
        SystemExit: it failed; its last lines are printed.
    """
    log = folder / "command.log"
    start_seconds = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environment}, stdout=file, stderr=subprocess.STDOUT
        )
        peak = Peak(lambda: sum(_pss(one) for one in _tree(process.pid)))
        _, status, usage = os.wait4(process.pid, 0)
        wall_seconds = time.monotonic() - start_seconds
        peak.stop()
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)} failed:\n" + "\n".join(log.read_text("utf-8").splitlines()[-20:]))
    return Cost(usage.ru_utime + usage.ru_stime, wall_seconds, peak.bytes)


class Peak(threading.Thread):
    """Watches memory from its making until it is stopped: `bytes` is the most that `look` has returned."""

    def __init__(self, look: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self._look, self._is_over = look, threading.Event()
        self.start()

    def run(self) -> None:
        """Look, again and again."""
        pause_seconds = SECONDS_BETWEEN_LOOKS
        while not self._is_over.wait(pause_seconds):
            start_seconds = time.monotonic()
            self.bytes = max(self.bytes, self._look())
            # a look at gigabytes takes long, and what is looked at stands still meanwhile
            spent_seconds = time.monotonic() - start_seconds
            pause_seconds = max(SECONDS_BETWEEN_LOOKS, PAUSE_IN_LOOKS * spent_seconds)

    def stop(self) -> None:
        """Look no more."""
        self._is_over.set()
        self.join()


def _tree(process: int) -> list[int]:
    found = [process]
    for one in found:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:  # it has just ended
                continue
    return found


def _pss(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return next((int(line.split()[1]) * KIBIBYTE for line in lines if line.startswith("Pss:")), 0)


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
