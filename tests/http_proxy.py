"""A web proxy on loopback: it tunnels CONNECT and asks for plain urls, all at one server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from tests.threaded import in_thread


class Proxy:
    """Notes what it is asked for; every name that it is given is the server's.

    Args:
        port: Of the server on loopback that stands for the internet.
        login: That it wants, as Basic sends it; empty for none.
    """

    def __init__(self, port: int, login: str = "") -> None:
        self._server, self._login = port, login
        self.port = 0
        self.asked: list[str] = []  # request lines
        self.heads: list[str] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, fields = head.decode("latin-1").partition("\r\n")
            self.asked.append(line)
            self.heads.append(fields)
            method, target, _ = line.split()
            if self._login and f"Proxy-Authorization: {self._login}\r\n" not in fields:
                writer.write(b"HTTP/1.1 407 Login\r\nContent-Length: 0\r\n\r\n")
                return
            there_reader, there = await asyncio.open_connection("127.0.0.1", self._server)
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                path = "/" + target.split("/", 3)[3]
                there.write(f"{method} {path} HTTP/1.1\r\n{fields}".encode("latin-1"))
            await asyncio.gather(_pipe(reader, there), _pipe(there_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


@contextmanager
def proxying(port: int, login: str = "") -> Iterator[Proxy]:
    """Run a proxy in a thread of its own, on a free port."""
    proxy = Proxy(port, login)

    @asynccontextmanager
    async def listening() -> AsyncIterator[int]:
        async with await asyncio.start_server(proxy.handle, "127.0.0.1", 0) as listener:
            yield listener.sockets[0].getsockname()[1]

    with in_thread(listening) as proxy.port:
        yield proxy
