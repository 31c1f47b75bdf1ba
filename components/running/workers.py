"""Run jobs in processes: a crash costs one job, its memory ends with it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from ctypes import c_int64
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

import components
from components.errors import InfrastructureError
from components.running.jobs import NOTHING, Job, Modules, SkipsItems, work
from components.running.progress import Progress
from components.storage.result_cache import remove_unfinished

Result = TypeVar("Result")
GRACE_SECONDS = 5.0
log = logging.getLogger("llm2clip")
CRASHES = {
    -number
    for number in (
        signal.SIGSEGV,
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGPROF,
    )
}


@dataclass
class _RunningJob(Generic[Result]):
    """A job under way; the parent's end of its pipe is read until it closes."""

    job: Job[Result]
    process: BaseProcess
    pipe: Connection
    unit: c_int64  # in memory that both processes see
    done: int = 0
    suspects: frozenset[int] = frozenset()  # units at which a process of this job crashed before
    outcome: list[tuple[str, Any]] = field(default_factory=list)  # one, once it has ended


def in_order(
    jobs: Iterable[Job[Result]], processes: int, progress: Progress, modules: Modules
) -> Generator[Result, None, None]:
    """Yield the results of jobs in their order, `processes` of them under way at a time.

    Processes are forked from a small server that has imported modules once, so that one is there within
    milliseconds and shares the memory of what was imported. A job whose process crashes is done again; one
    that crashes twice at the same unit of work is done without it. Close the generator to stop the processes.

    Raises:
        InfrastructureError: a process was killed, or crashed at no unit.
        Exception: what a job raised; all others are stopped.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *modules.imported])
    waiting = iter(jobs)
    warned: set[str] = set()
    runs: deque[_RunningJob[Result]] = deque()
    try:
        while True:
            while sum(not run.outcome for run in runs) < processes and len(runs) < 2 * processes:
                job = next(waiting, None)
                if job is None:
                    break
                runs.append(_start(context, job, modules))
            if not runs:
                return
            if runs[0].outcome:
                yield _result(runs.popleft())
                continue
            _listen(context, runs, progress, modules, warned)
    finally:
        _stop([run.process for run in runs])


@contextmanager
def finished_pieces(
    jobs: Iterable[Job[Result]], processes: int, progress: Progress, modules: Modules, store: Path
) -> Iterator[Iterator[Result]]:
    """Give the results of jobs that make pieces of a store, by `in_order`.

    However it ends, nothing half made is left there.
    """
    try:
        with closing(in_order(jobs, processes, progress, modules)) as finished:
            yield finished
    finally:
        remove_unfinished(store)


def pieces_by_content(
    jobs: Mapping[str, Job[Result]], processes: int, progress: Progress, modules: Modules, store: Path
) -> dict[str, Result]:
    """Return the results of jobs that make pieces of a store, by the hash of what each reads.

    Inputs of equal bytes, as empty ones are, have one piece: as one job no two processes make it at once.
    """
    with finished_pieces(jobs.values(), processes, progress, modules, store) as finished:
        return dict(zip(jobs, finished, strict=True))


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


def _start(context: ForkServerContext, job: Job[Result], modules: Modules) -> _RunningJob[Result]:
    ours, theirs = context.Pipe()
    unit = context.RawValue(c_int64, NOTHING)
    process = context.Process(target=work, args=(job, theirs, unit, modules, dict(os.environ)))
    with _import_path():
        process.start()
    theirs.close()
    return _RunningJob(job, process, ours, unit)


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


def _listen(
    context: ForkServerContext,
    runs: deque[_RunningJob[Result]],
    progress: Progress,
    modules: Modules,
    warned: set[str],
) -> None:
    """Wait until a job counts, warns, ends or dies; of each kind of warning the first one is logged."""
    by_pipe: dict[Any, _RunningJob[Result]] = {run.pipe: run for run in runs if not run.outcome}
    for pipe in wait(list(by_pipe)):
        run = by_pipe[pipe]
        try:
            kind, value = run.pipe.recv()
        except (EOFError, OSError):
            again = _after_death(run)
            progress.advance(-run.done)
            runs[runs.index(run)] = replace(
                _start(context, again, modules), suspects=run.suspects | {run.unit.value}
            )
            continue
        if kind == "done":
            run.done += value
            progress.advance(value)
        elif kind == "warned":
            if value[0] not in warned:
                warned.add(value[0])
                log.warning("%s", value[1])
        else:
            run.outcome.append((kind, value))
            run.pipe.close()
            run.process.join()


def _after_death(run: _RunningJob[Result]) -> Job[Result]:
    """Return what to do in the place of a job whose process is gone."""
    run.pipe.close()
    run.process.join()
    code = run.process.exitcode or 0
    if code in CRASHES and run.unit.value != NOTHING:
        if run.unit.value not in run.suspects:  # once may be a bystander's bad luck
            return run.job
        if isinstance(run.job, SkipsItems):
            return run.job.skip_item(run.unit.value)
    what = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        what += ", likely for want of memory: set LLM2CLIP_PROCESSES lower or make shards smaller"
    raise InfrastructureError(f"a worker process ended with {what}; what is finished is kept, run again")


def _result(run: _RunningJob[Result]) -> Result:
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
