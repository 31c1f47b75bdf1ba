"""Run jobs in worker processes: a crash costs one job, and its memory is freed with it."""

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
    """A running job; the parent reads its end of the pipe until it closes."""

    job: Job[Result]
    process: BaseProcess
    pipe: Connection
    unit: c_int64  # in shared memory
    done: int = 0
    suspects: frozenset[int] = frozenset()  # units at which this job crashed before
    outcome: list[tuple[str, Any]] = field(default_factory=list)  # one entry once the job has ended


def in_order(
    jobs: Iterable[Job[Result]], processes: int, progress: Progress, modules: Modules
) -> Generator[Result, None, None]:
    """Yield the results of jobs in their order, with `processes` of them running at a time.

    Processes are forked from a small server that has imported the modules once. So a process starts within
    milliseconds and shares the memory of the imports. A job whose process crashes is repeated; if it crashes
    twice at the same unit of work, it is repeated without that unit. Closing the generator stops the
    processes.

    Raises:
        InfrastructureError: a process was killed, or crashed outside any unit.
        Exception: the error that a job raised; all others are stopped.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *modules.imported])
    pending = iter(jobs)
    warned: set[str] = set()
    runs: deque[_RunningJob[Result]] = deque()
    try:
        while True:
            while sum(not run.outcome for run in runs) < processes and len(runs) < 2 * processes:
                job = next(pending, None)
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
    """Yield the results of jobs that write to a result cache, by `in_order`.

    However it ends, no unfinished result is left in the cache.
    """
    try:
        with closing(in_order(jobs, processes, progress, modules)) as finished:
            yield finished
    finally:
        remove_unfinished(store)


def pieces_by_content(
    jobs: Mapping[str, Job[Result]], processes: int, progress: Progress, modules: Modules, store: Path
) -> dict[str, Result]:
    """Return the results of jobs that write to a result cache, by the hash of their inputs.

    Inputs of equal bytes, such as empty ones, share one result and one job, so no two processes make
    it at once.
    """
    with finished_pieces(jobs.values(), processes, progress, modules, store) as finished:
        return dict(zip(jobs, finished, strict=True))


def stop_server() -> None:
    """Stop the fork server and wait for it, so that the costs of its processes count as ours.

    multiprocessing keeps it until the program ends and has no public call for this.
    """
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(context: ForkServerContext, job: Job[Result], modules: Modules) -> _RunningJob[Result]:
    parent_end, child_end = context.Pipe()
    unit = context.RawValue(c_int64, NOTHING)
    process = context.Process(target=work, args=(job, child_end, unit, modules, dict(os.environ)))
    with _import_path():
        process.start()
    child_end.close()
    return _RunningJob(job, process, parent_end, unit)


@contextmanager
def _import_path() -> Iterator[None]:
    """Make the fork server import this code from any folder: in Python 3.11 it ignores `sys.path`."""
    old_path = os.environ.get("PYTHONPATH")
    root = str(Path(components.__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *([old_path] if old_path else [])])
    try:
        yield
    finally:
        if old_path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = old_path


def _listen(
    context: ForkServerContext,
    runs: deque[_RunningJob[Result]],
    progress: Progress,
    modules: Modules,
    warned: set[str],
) -> None:
    """Wait until a job reports progress, warns, ends or dies; log the first warning of each kind."""
    by_pipe: dict[Any, _RunningJob[Result]] = {run.pipe: run for run in runs if not run.outcome}
    for pipe in wait(list(by_pipe)):
        run = by_pipe[pipe]
        try:
            kind, value = run.pipe.recv()
        except (EOFError, OSError):
            retry = _job_after_death(run)
            progress.advance(-run.done)
            runs[runs.index(run)] = replace(
                _start(context, retry, modules), suspects=run.suspects | {run.unit.value}
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


def _job_after_death(run: _RunningJob[Result]) -> Job[Result]:
    """Return the job to run instead of one whose process has died."""
    run.pipe.close()
    run.process.join()
    code = run.process.exitcode or 0
    if code in CRASHES and run.unit.value != NOTHING:
        if run.unit.value not in run.suspects:  # the first crash may have another cause
            return run.job
        if isinstance(run.job, SkipsItems):
            return run.job.skip_item(run.unit.value)
    cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        cause += ", likely out of memory: lower LLM2CLIP_PROCESSES or make shards smaller"
    raise InfrastructureError(f"a worker process ended with {cause}; finished work is kept: rerun")


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
