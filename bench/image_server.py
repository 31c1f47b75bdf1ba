"""Serve pictures over HTTP on loopback, as cheaply as Python can, at equal cost for every client.

`/count` answers how many requests there were before, without those for it.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
COUNT = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n%12d"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class _Pictures(asyncio.Protocol):
    requests = 0

    def __init__(self, answers: dict[bytes, bytes]) -> None:
        self._answers, self._head = answers, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for mypy
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._head += data
        while (end := self._head.find(b"\r\n\r\n")) >= 0:
            path = self._head[:end].split(b" ", 2)[1]
            self._head = self._head[end + 4 :]
            if path == b"/count":
                self._transport.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n%12d" % _Pictures.requests
                )
                continue
            _Pictures.requests += 1
            self._transport.write(self._answers.get(path.partition(b"?")[0], NOT_FOUND))


async def serve(folder: Path) -> None:
    """Serve every file of a folder from memory and print the port, until the input ends."""
    answers = {}
    for path in folder.iterdir():
        data = path.read_bytes()
        answers[f"/{path.name}".encode()] = HEAD % len(data) + data
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Pictures(answers), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
