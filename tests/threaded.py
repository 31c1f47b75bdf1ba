"""What goes on beside a test in a thread of its own: a server of asyncio, or somebody who stops the stage."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

import pytest

from components.faults import Stopped
from components.running.signals import raise_on_stop_signals


@contextmanager
def stopped_once(asked: threading.Event) -> Iterator[None]:
    """Send SIGTERM as soon as something was asked for; the block must end with `Stopped`."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    main_thread = threading.main_thread().ident or 0

    def kill() -> None:
        asked.wait()
        signal.pthread_kill(main_thread, signal.SIGTERM)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        raise_on_stop_signals()
        with pytest.raises(Stopped):
            yield
    finally:
        killer.join()
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)


@contextmanager
def in_thread(listening: Callable[[], AbstractAsyncContextManager[int]]) -> Iterator[int]:
    """Run a server, which gives its port once it listens."""
    ready = threading.Event()
    ports: list[int] = []
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(done.set))
        async with listening() as port:
            ports.append(port)
            ready.set()
            await done.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield ports[0]
    finally:
        stop[0]()
        thread.join()
