"""Worker side of a job: run it, report progress to the parent, end when the parent ends."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_int64
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar, runtime_checkable

Result_co = TypeVar("Result_co", covariant=True)
SECONDS_BETWEEN_COUNTS = 0.2
ORPHANED = 143
NOTHING = -1


class Job(Protocol[Result_co]):
    """Work that can be sent to another process."""

    def __call__(self, reporter: ProgressReporter) -> Result_co:
        """Do the work and report progress."""
        ...


@runtime_checkable
class SkipsItems(Protocol):
    """A job that names its units of work (`ProgressReporter.at`), because one may crash the process."""

    def skip_item(self, item: int) -> Any:  # noqa: ANN401 - a job of the same results
        """Return the same job without a unit of work that crashed the process."""
        ...


class ProgressReporter:
    """Report to the parent: finished units a few times a second, the current unit and warnings at once."""

    def __init__(self, pipe: Connection, unit: c_int64, *, counts: bool = True) -> None:
        self._pipe, self._unit, self._counts, self._done, self._sent_seconds = pipe, unit, counts, 0, 0.0

    def uncounted(self) -> ProgressReporter:
        """Return a reporter that ignores finished units, because they were counted before."""
        return ProgressReporter(self._pipe, self._unit, counts=False)

    def advance(self, units: int = 1) -> None:
        """Count finished units."""
        if not self._counts:
            return
        self._done += units
        if time.monotonic() > self._sent_seconds + SECONDS_BETWEEN_COUNTS:
            self.send()

    def send(self) -> None:
        """Send the count."""
        self._pipe.send(("done", self._done))
        self._done, self._sent_seconds = 0, time.monotonic()

    def warn(self, kind: str, text: str) -> None:
        """Make the parent log a text, unless it has logged one of this kind."""
        self._pipe.send(("warned", (kind, text)))

    @contextmanager
    def at(self, unit: int, deadline_seconds: float) -> Iterator[None]:
        """Attribute a crash of the process within the block to this unit; crash it at the deadline.

        A library in an endless loop cannot be asked to stop, so the timer ends the process. It counts CPU
        seconds, so time in which the process is stopped or starved does not count. One unit at a time.
        """
        self._unit.value = unit
        signal.setitimer(signal.ITIMER_PROF, deadline_seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self._unit.value = NOTHING


@dataclass(frozen=True)
class Modules:
    """Modules that are imported once for all worker processes, and modules that are blocked."""

    imported: tuple[str, ...] = ()
    blocked_imports: tuple[str, ...] = ()  # optional modules that a library imports without need


def work(
    job: Job[Any], pipe: Connection, unit: c_int64, modules: Modules, environment: dict[str, str]
) -> None:
    """Do a job; the first function of a worker process."""
    os.environ.clear()
    os.environ.update(environment)  # the server keeps the environment of its start
    gc.freeze()  # imported modules are never collected, so their memory stays shared
    sys.meta_path.insert(0, _ImportBlocker(modules.blocked_imports))
    _follow_parent()
    reporter = ProgressReporter(pipe, unit)
    try:
        outcome = ("returned", job(reporter))
    except Exception as error:
        error.add_note("".join(traceback.format_tb(error.__traceback__)))
        outcome = ("raised", _sendable(error))
    reporter.send()
    pipe.send(outcome)


def _sendable(error: Exception) -> Exception:
    """Return an error that can be pickled; a RuntimeError with its text if it cannot."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class _ImportBlocker(MetaPathFinder):
    """Make modules look as if they were not installed."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:  # noqa: ANN401 - its interface
        """Raise for a blocked module, so that no other finder looks for it; find nothing else."""
        if fullname in self._names:
            raise ModuleNotFoundError(fullname)


def _follow_parent() -> None:
    """Ignore the keyboard's signal, which the parent handles, and exit when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent:
            parent.join()
        os._exit(ORPHANED)

    threading.Thread(target=follow, daemon=True).start()
