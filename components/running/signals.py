"""Stop signals: SIGTERM, SIGINT and the parent's death end a stage cleanly."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from components.errors import Stopped

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PARENT_POLL_SECONDS = 0.5
T = TypeVar("T")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def raise_on_stop_signals() -> None:
    """Raise `Stopped` in the main thread on SIGTERM and SIGINT, at any point: all writes are atomic."""
    for signal_number in STOP_SIGNALS:
        signal.signal(signal_number, _raise_stopped)


def ignore_stop_signals() -> None:
    """Ignore stop signals while exit.json is written."""
    for signal_number in STOP_SIGNALS:
        signal.signal(signal_number, signal.SIG_IGN)


def raise_if_stopped() -> None:
    """Raise `Stopped` again if it was lost, for example in a destructor or a weak reference's callback.

    After a stop signal all others are ignored, which shows that one came.

    Raises:
        Stopped: a stop signal came, but the work went on.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        raise Stopped


class StopRequest:
    """Flag: True after a stop signal."""

    requested = False


@contextmanager
def deferred_stop() -> Iterator[StopRequest]:
    """Make stop signals only set a flag within the block, so that a step ends and a checkpoint is saved."""
    request = StopRequest()

    def remember(_number: int, _frame: FrameType | None) -> None:
        request.requested = True

    handlers = [signal.signal(signal_number, remember) for signal_number in STOP_SIGNALS]
    try:
        yield request
    finally:
        for signal_number, handler in zip(STOP_SIGNALS, handlers, strict=True):
            signal.signal(signal_number, handler)


def run_or_stop(runner: asyncio.Runner, work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in an event loop; a stop signal cancels it, as an exception in a loop may be lost.

    Args:
        runner: Runner of this thread, which is the main one.
        work: Coroutine. What it awaits is cancelled with it; tasks that it started are not.

    Raises:
        Stopped: a signal arrived.
    """
    loop = runner.get_loop()
    task = loop.create_task(work)
    with deferred_stop() as request:
        for signal_number in STOP_SIGNALS:
            remember = signal.getsignal(signal_number)
            loop.add_signal_handler(signal_number, task.cancel)
            signal.signal(
                signal_number, remember
            )  # asyncio's handler does nothing, and a loop that ends no longer checks
        if request.requested:
            task.cancel()
        try:
            result = loop.run_until_complete(task)
        except asyncio.CancelledError:
            if not request.requested:
                raise
        finally:
            for signal_number in STOP_SIGNALS:
                loop.remove_signal_handler(signal_number)
    if request.requested:
        raise Stopped
    return result


def die_with_parent() -> None:
    """Under DVC, send SIGTERM to this process when the parent dies: DVC leaves its stages running.

    A stage started by hand (no `DVC_STAGE`) is not changed, so that it survives a logout.
    """
    if "DVC_STAGE" in os.environ:
        end_with_parent()
        if os.getppid() == 1 and not _is_in_session_of_init():
            os.kill(os.getpid(), signal.SIGTERM)  # DVC died while this process started


def end_with_parent() -> None:
    """Send SIGTERM to this process when the parent dies."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _is_in_session_of_init() -> bool:
    """Return True if process 1 may be the parent: DVC, as the only process of a container."""
    try:
        return os.getsid(0) == os.getsid(1)
    except OSError:
        return False


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _raise_stopped(_number: int, _frame: FrameType | None) -> None:
    ignore_stop_signals()  # the group's signal and the parent's death are two signals; one is enough
    raise Stopped
