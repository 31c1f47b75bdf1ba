"""What SIGTERM, SIGINT and the parent's death do to a stage."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from components.faults import Stopped

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PARENT_POLL_SECONDS = 0.5
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def raise_on_stop_signals() -> None:
    """Turn SIGTERM and SIGINT into `Stopped`, wherever the main thread is: all writes are atomic."""
    for number in STOP_SIGNALS:
        signal.signal(number, _raise_stopped)


def ignore_stop_signals() -> None:
    """Let nothing interrupt the telling of an outcome that is settled."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


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


@contextmanager
def stop_cancels(work: asyncio.Future[Any], loop: asyncio.AbstractEventLoop) -> Iterator[StopRequest]:
    """Within the block a stop signal cancels `work`: an exception raised inside an event loop may be lost."""
    with deferred_stop() as request:

        def cancel() -> None:
            request.requested = True
            work.cancel()

        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, cancel)
        if request.requested:
            work.cancel()
        try:
            yield request
        finally:
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)


def die_with_parent() -> None:
    """Under DVC, make the parent's death a SIGTERM to this process: DVC itself leaves its stages running.

    A stage started by hand (no `DVC_STAGE`) is left alone, so that it survives a logout.
    """
    if "DVC_STAGE" not in os.environ:
        return
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent or parent == 1:
        os.kill(os.getpid(), signal.SIGTERM)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _raise_stopped(_number: int, _frame: FrameType | None) -> None:
    ignore_stop_signals()  # the group's signal and the parent's death come as two; once is enough
    raise Stopped
