"""Jobs in processes of their own: order, counts, and what a process may do to itself."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import psutil
import pytest

from components.errors import DataError, InfrastructureError
from components.running.jobs import Modules, ProgressReporter
from components.running.progress import Progress
from components.running.workers import in_order, stop_server
from tests.conftest import ROOT

SECONDS = 60.0


@dataclass(frozen=True)
class Work:
    """Counts its units; what happens at a unit is a line of Python."""

    number: int
    units: int = 3
    at_unit_1: str = "pass"
    skipped: frozenset[int] = frozenset()
    deadline_seconds: float = SECONDS

    def __call__(self, reporter: ProgressReporter) -> list[int]:
        done = []
        for unit in range(self.units):
            if unit not in self.skipped:
                with reporter.at(unit, self.deadline_seconds):
                    if unit == 1:
                        exec(self.at_unit_1)  # noqa: S102
                done.append(10 * self.number + unit)
            reporter.advance()
        return done

    def skip_item(self, item: int) -> Self:
        return replace(self, skipped=self.skipped | {item})


def results(jobs: list[Work], folder: Path, processes: int = 2) -> list[list[int]]:
    progress = Progress(folder, "test", sum(job.units for job in jobs), "units")
    with closing(in_order(jobs, processes, progress, Modules())) as found:
        collected = list(found)
    assert progress.done == progress.total
    return collected


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_results_come_in_the_order_of_the_jobs_and_all_units_are_counted(
    tmp_path: Path, processes: int
) -> None:
    slow_first = [Work(0, at_unit_1="time.sleep(0.3)"), *(Work(number) for number in range(1, 6))]
    assert results(slow_first, tmp_path, processes) == [
        [10 * number + unit for unit in range(3)] for number in range(6)
    ]


@pytest.mark.parametrize(
    "crash",
    [
        "os.kill(os.getpid(), signal.SIGSEGV)",
        "os.abort()",
        "[None for _ in iter(int, 1)]",  # never lets go of the interpreter's lock for long
    ],
)
def test_a_unit_that_crashes_or_hangs_is_left_out_and_no_other(tmp_path: Path, crash: str) -> None:
    jobs = [Work(0), Work(1, at_unit_1=crash, deadline_seconds=0.2), Work(2)]
    assert results(jobs, tmp_path) == [[0, 1, 2], [10, 12], [20, 21, 22]]


def test_a_crash_that_does_not_come_again_costs_nothing(tmp_path: Path) -> None:
    once = f"Path({str(tmp_path / 'seen')!r})"
    crash = f"{once}.exists() or ({once}.touch(), os.abort())"
    assert results([Work(0, at_unit_1=crash), Work(1)], tmp_path) == [[0, 1, 2], [10, 11, 12]]


def test_a_process_that_was_stopped_for_long_loses_nothing(tmp_path: Path) -> None:
    asleep = "time.sleep(0.5)"  # not a second of computing
    assert results([Work(0, at_unit_1=asleep, deadline_seconds=0.2)], tmp_path) == [[0, 1, 2]]


class Unsendable(Exception):
    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} and {other}")


def test_an_error_that_cannot_be_sent_comes_in_other_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Unsendable: this and that"):
        results([Work(0, at_unit_1="raise Unsendable('this', 'that')")], tmp_path)


def test_the_environment_is_that_of_the_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("one", "two"):
        monkeypatch.setenv("SOMETHING", value)
        asked = f"assert os.environ['SOMETHING'] == '{value}'"
        assert results([Work(0, at_unit_1=asked)], tmp_path) == [[0, 1, 2]]


def test_a_process_killed_for_want_of_memory_stops_all_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="SIGKILL, likely out of memory"):
        results([Work(0, at_unit_1="os.kill(os.getpid(), signal.SIGKILL)")], tmp_path)


def test_what_a_job_raises_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="what was found"):
        results([Work(0, at_unit_1="raise DataError('what was found')")], tmp_path)
    with pytest.raises(OSError, match="No space left") as caught:
        results([Work(0, at_unit_1="raise OSError(errno.ENOSPC, 'No space left')")], tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert "exec(self.at_unit_1)" in "".join(caught.value.__notes__)


def test_closing_ends_the_processes(tmp_path: Path) -> None:
    progress = Progress(tmp_path, "test", 9, "units")
    found = in_order([Work(0), Work(1, at_unit_1="time.sleep(60)"), Work(2)], 2, progress, Modules())
    assert next(found) == [0, 1, 2]
    found.close()
    stop_server()
    assert not [
        one for one in psutil.Process().children(recursive=True) if "forkserver" in " ".join(one.cmdline())
    ]


def test_no_process_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tests.running.test_workers import *; "
        f"results([Work(n, at_unit_1='time.sleep(60)') for n in range(2)], Path({str(tmp_path)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as parent:
        family = psutil.Process(parent.pid)
        deadline = time.monotonic() + SECONDS
        while len(family.children(recursive=True)) < 4 and time.monotonic() < deadline:
            os.sched_yield()  # the server, the tracker of resources, and two workers
        children = family.children(recursive=True)
        parent.send_signal(signal.SIGKILL)
    assert len(children) == 4
    gone, alive = psutil.wait_procs(children, timeout=SECONDS)
    assert not alive
