"""What SIGTERM, SIGINT and the parent's death do to a stage."""

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
    """Turn SIGTERM and SIGINT into `Stopped`, wherever the main thread is: all writes are atomic."""
    for number in STOP_SIGNALS:
        signal.signal(number, _raise_stopped)


def ignore_stop_signals() -> None:
    """Let nothing interrupt the telling of an outcome that is settled."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def raise_if_stopped() -> None:
    """Raise again what was raised where exceptions are lost: in a destructor, say, or by a weak reference.

    A stop signal that has come has all others ignored: that is how it is known.

    Raises:
        Stopped: one came, and the work goes on all the same.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        raise Stopped


class StopRequest:
    """Whether a stop signal has arrived."""

    requested = False


@contextmanager
def deferred_stop() -> Iterator[StopRequest]:
    """Let a stop signal only set a flag within the block, so that a step ends and a checkpoint is saved."""
    request = StopRequest()

    def remember(_number: int, _frame: FrameType | None) -> None:
        request.requested = True

    before = [signal.signal(number, remember) for number in STOP_SIGNALS]
    try:
        yield request
    finally:
        for number, handler in zip(STOP_SIGNALS, before, strict=True):
            signal.signal(number, handler)


def run_or_stop(runner: asyncio.Runner, work: Coroutine[Any, Any, T]) -> T:
    """Run work in an event loop; a stop signal cancels it: an exception raised inside a loop may be lost.

    Args:
        runner: Of this thread, which is the main one.
        work: What it awaits is cancelled with it; tasks that it started are not.

    Raises:
        Stopped: a signal arrived.
    """
    loop = runner.get_loop()
    task = loop.create_task(work)
    with deferred_stop() as request:
        for number in STOP_SIGNALS:
            remember = signal.getsignal(number)
            loop.add_signal_handler(number, task.cancel)
            signal.signal(number, remember)  # asyncio's own does nothing, and a loop that ends looks no more
        if request.requested:
            task.cancel()
        try:
            result = loop.run_until_complete(task)
        except asyncio.CancelledError:
            if not request.requested:
                raise
        finally:
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)
    if request.requested:
        raise Stopped
    return result


def die_with_parent() -> None:
    """Under DVC, make the parent's death a SIGTERM to this process: DVC itself leaves its stages running.

    A stage started by hand (no `DVC_STAGE`) is left alone, so that it survives a logout.
    """
    if "DVC_STAGE" in os.environ:
        end_with_parent()
        if os.getppid() == 1 and not _is_of_session_of_first():
            os.kill(os.getpid(), signal.SIGTERM)  # DVC died while this process started


def end_with_parent() -> None:
    """Make the parent's death a SIGTERM to this process."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _is_of_session_of_first() -> bool:
    """Say whether this process may be a child of process 1: DVC, where it is all that a container runs."""
    try:
        return os.getsid(0) == os.getsid(1)
    except OSError:
        return False


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _raise_stopped(_number: int, _frame: FrameType | None) -> None:
    ignore_stop_signals()  # the group's signal and the parent's death come as two; once is enough
    raise Stopped
