"""A web server on loopback that behaves as it is told, byte by byte; it can be as evil as the internet."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from tests.threaded import in_thread

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
DRIP_SECONDS = 0.02


class Server:
    """Answers each path by its own rule, 404 without one, and counts what it was asked."""

    def __init__(self) -> None:
        self.port = 0
        self.scheme = "http"
        self.answers: dict[
            str, Answer | list[Answer]
        ] = {}  # a list is answered one by one, the last one for good
        self.hits = Counter[str]()
        self.headers: dict[str, list[str]] = {}
        self.targets: list[str] = []  # as they were asked for, byte by byte in latin-1

    def url(self, path: str) -> str:
        """Return the address of a path."""
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            path = head[0].split()[1]
            self.targets.append(head[0].removeprefix("GET ").removesuffix(" HTTP/1.1"))
            self.hits[path] += 1
            self.headers[path] = head[1:-2]
            answer = self.answers.get(path, status(404))
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            await answer(writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def body(data: bytes, *headers: str, length: int | None = None) -> Answer:
    """Answer 200 with these bytes; `length` is what Content-Length claims."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(data) if length is None else length}", *headers]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + data)

    return answer


def status(code: int, *headers: str) -> Answer:
    """Answer a status without a body."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {code} No", "Content-Length: 0", *headers]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    return answer


def raw(data: bytes) -> Answer:
    """Answer with whatever bytes."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return answer


def redirect(target: str, code: int = 302) -> Answer:
    """Send the client elsewhere."""
    return status(code, f"Location: {target}")


def drip(start: bytes) -> Answer:
    """Send a beginning, then byte after byte until the client has had enough."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            await asyncio.sleep(DRIP_SECONDS)
            writer.write(b"x")
            await writer.drain()

    return answer


def endless(start: bytes) -> Answer:
    """Send as fast as the client takes it, for ever."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    return answer


async def reset(writer: asyncio.StreamWriter) -> None:
    """Cut the connection without an answer."""
    writer.transport.abort()


def late(answer: Answer, seconds: float) -> Answer:
    """Answer after a while."""

    async def later(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        await answer(writer)

    return later


@contextmanager
def serving(server: Server, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server in a thread of its own, on a free port."""
    server.scheme = "https" if tls else "http"

    @asynccontextmanager
    async def listening() -> AsyncIterator[int]:
        async with await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=tls) as listener:
            yield listener.sockets[0].getsockname()[1]

    with in_thread(listening) as server.port:
        yield server
