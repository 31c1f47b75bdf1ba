"""Jobs in processes of their own, one each: what kills one costs one job, and its memory goes with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from ctypes import c_int64
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import components
from components.faults import InfrastructureFault
from components.running.progress import Progress

Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")
SECONDS_BETWEEN_COUNTS = 0.2
GRACE_SECONDS = 5.0
ORPHANED = 143
CRASHES = {
    -number
    for number in (
        signal.SIGSEGV,
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGALRM,
    )
}
NOTHING = -1


class Job(Protocol[Result_co]):
    """One piece of work that can be sent to another process."""

    def __call__(self, tell: Tell) -> Result_co:
        """Do it, telling how far it is."""
        ...

    def without(self, unit: int) -> Self:
        """Return the same job without a unit of work that crashed the process."""
        ...


class Tell:
    """What a job tells its parent: units done, a few times a second, and the one it is at, at once."""

    def __init__(self, pipe: Connection, unit: c_int64, *, counts: bool = True) -> None:
        self._pipe, self._unit, self._counts, self._done, self._sent_seconds = pipe, unit, counts, 0, 0.0

    def uncounted(self) -> Tell:
        """Return one that is not told of units done: they were counted before."""
        return Tell(self._pipe, self._unit, counts=False)

    def advance(self, units: int = 1) -> None:
        """Count units that are done."""
        if not self._counts:
            return
        self._done += units
        if time.monotonic() > self._sent_seconds + SECONDS_BETWEEN_COUNTS:
            self.send()

    def send(self) -> None:
        """Send the count."""
        self._pipe.send(("done", self._done))
        self._done, self._sent_seconds = 0, time.monotonic()

    @contextmanager
    def at(self, unit: int, deadline_seconds: float) -> Iterator[None]:
        """Say that a crash of the process within the block is this unit's doing; at the deadline it is one.

        A library that hangs cannot be asked to stop: the timer ends the process. One unit at a time.
        """
        self._unit.value = unit
        signal.setitimer(signal.ITIMER_REAL, deadline_seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._unit.value = NOTHING


@dataclass
class _Run(Generic[Result]):
    """A job under way; the parent's end of its pipe is read until it closes."""

    job: Job[Result]
    process: BaseProcess
    pipe: Connection
    unit: c_int64  # in memory that both processes see
    done: int = 0
    outcome: list[tuple[str, Any]] = field(default_factory=list)  # one, once it has ended


def in_order(
    jobs: Iterable[Job[Result]], processes: int, progress: Progress, preload: Iterable[str]
) -> Generator[Result, None, None]:
    """Yield the results of jobs in their order, `processes` of them under way at a time.

    Processes are forked from a small server that has imported `preload` once, so that one is there within
    milliseconds and shares the memory of what was imported. A job whose process crashes at a unit of work is
    done again without that unit. Close the generator to stop the processes.

    Raises:
        InfrastructureFault: a process was killed, or crashed at no unit.
        Exception: what a job raised; all others are stopped.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    waiting = iter(jobs)
    runs: deque[_Run[Result]] = deque()
    try:
        while True:
            while sum(not run.outcome for run in runs) < processes and len(runs) < 2 * processes:
                job = next(waiting, None)
                if job is None:
                    break
                runs.append(_start(context, job))
            if not runs:
                return
            if runs[0].outcome:
                yield _result(runs.popleft())
                continue
            _listen(context, runs, progress)
    finally:
        _stop([run.process for run in runs])


def stop_server() -> None:
    """End the server of processes and wait for it, so that what its processes cost is known as ours.

    The library keeps it until the program ends and has no public way of saying this.
    """
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


def usable_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(context: ForkServerContext, job: Job[Result]) -> _Run[Result]:
    ours, theirs = context.Pipe()
    unit = context.RawValue(c_int64, NOTHING)
    process = context.Process(target=_work, args=(job, theirs, unit))
    with _import_path():
        process.start()
    theirs.close()
    return _Run(job, process, ours, unit)


@contextmanager
def _import_path() -> Iterator[None]:
    """Have the server import this very code, wherever it is started: Python 3.11's ignores `sys.path`."""
    before = os.environ.get("PYTHONPATH")
    root = str(Path(components.__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _listen(context: ForkServerContext, runs: deque[_Run[Result]], progress: Progress) -> None:
    """Wait until a job counts, ends or dies."""
    by_pipe: dict[Any, _Run[Result]] = {run.pipe: run for run in runs if not run.outcome}
    for pipe in wait(list(by_pipe)):
        run = by_pipe[pipe]
        try:
            kind, value = run.pipe.recv()
        except (EOFError, ConnectionError):
            job = _after_death(run)
            progress.advance(-run.done)
            runs[runs.index(run)] = _start(context, job)
            continue
        if kind == "done":
            run.done += value
            progress.advance(value)
        else:
            run.outcome.append((kind, value))
            run.pipe.close()
            run.process.join()


def _after_death(run: _Run[Result]) -> Job[Result]:
    """Return what to do in the place of a job whose process is gone."""
    run.pipe.close()
    run.process.join()
    code = run.process.exitcode or 0
    if code in CRASHES and run.unit.value != NOTHING:
        return run.job.without(run.unit.value)
    what = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        what += ", likely for want of memory: set LLM2CLIP_PROCESSES lower or make shards smaller"
    raise InfrastructureFault(f"a worker process ended with {what}; what is finished is kept, run again")


def _result(run: _Run[Result]) -> Result:
    kind, value = run.outcome[0]
    if kind == "raised":
        raise value
    result: Result = value
    return result


def _stop(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _work(job: Job[Any], pipe: Connection, unit: c_int64) -> None:
    """Do a job; the first function of a worker process."""
    _follow_parent()
    tell = Tell(pipe, unit)
    try:
        outcome = ("returned", job(tell))
    except Exception as error:
        error.add_note("".join(traceback.format_tb(error.__traceback__)))
        outcome = ("raised", error)
    tell.send()
    pipe.send(outcome)


def _follow_parent() -> None:
    """Leave the keyboard's signal to the parent, and end when it ends, however that was."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent:
            parent.join()
        os._exit(ORPHANED)

    threading.Thread(target=follow, daemon=True).start()
