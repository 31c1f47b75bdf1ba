"""Jobs as a worker process sees them: what it runs, what it tells its parent, and when it ends."""

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
    """One piece of work that can be sent to another process."""

    def __call__(self, reporter: ProgressReporter) -> Result_co:
        """Do it, telling how far it is."""
        ...


@runtime_checkable
class SkipsItems(Protocol):
    """A job that names its units of work (`ProgressReporter.at`), for one of them may crash the process."""

    def skip_item(self, item: int) -> Any:  # noqa: ANN401 - a job of the same results
        """Return the same job without a unit of work that crashed the process."""
        ...


class ProgressReporter:
    """What a job tells its parent: units done, a few times a second; its unit and warnings, at once."""

    def __init__(self, pipe: Connection, unit: c_int64, *, counts: bool = True) -> None:
        self._pipe, self._unit, self._counts, self._done, self._sent_seconds = pipe, unit, counts, 0, 0.0

    def uncounted(self) -> ProgressReporter:
        """Return one that is not told of units done: they were counted before."""
        return ProgressReporter(self._pipe, self._unit, counts=False)

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

    def warn(self, kind: str, text: str) -> None:
        """Have the parent log a text, unless it has logged one of this kind."""
        self._pipe.send(("warned", (kind, text)))

    @contextmanager
    def at(self, unit: int, deadline_seconds: float) -> Iterator[None]:
        """Say that a crash of the process within the block is this unit's doing; at the deadline it is one.

        A library that loops for ever cannot be asked to stop: the timer ends the process. It counts the
        seconds that the process computes, so that one which is stopped or starved loses nothing. One unit at
        a time.
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
    """What worker processes import, once for all; and what they shall do without."""

    imported: tuple[str, ...] = ()
    blocked_imports: tuple[str, ...] = ()  # optional ones, that a library would import for nothing


def work(
    job: Job[Any], pipe: Connection, unit: c_int64, modules: Modules, environment: dict[str, str]
) -> None:
    """Do a job; the first function of a worker process."""
    os.environ.clear()
    os.environ.update(environment)  # the server keeps that of its start
    gc.freeze()  # what the server imported is never garbage: its memory stays shared
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
    """Return an error that survives the way to the parent, if need be in other words."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class _ImportBlocker(MetaPathFinder):
    """Has modules look as if they were not installed."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:  # noqa: ANN401 - its interface
        """Find nothing, and let no other finder look for what is blocked."""
        if fullname in self._names:
            raise ModuleNotFoundError(fullname)


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
