"""What goes on beside a test in a thread of its own: a server of asyncio, or somebody who stops the stage."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

import pytest
from aiohttp import web

from components.errors import Stopped
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
def posted_to(path: str, handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Iterator[int]:
    """Run an HTTP server that takes POST requests at one path, on a free port of loopback."""

    @asynccontextmanager
    async def listening() -> AsyncIterator[int]:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post(path, handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
        await runner.cleanup()

    with in_thread(listening) as port:
        yield port


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
