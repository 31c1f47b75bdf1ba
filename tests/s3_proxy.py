"""A proxy before an S3 server that misbehaves in a chosen way."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

CONDITIONS = ("if-match", "if-none-match")
HOP = ("connection", "transfer-encoding", "content-length")
ANSWERS = {
    "busy": (503, "SlowDown"),
    "error": (500, "InternalError"),
    "forbidden": (403, "AccessDenied"),
    "no_upload": (404, "NoSuchUpload"),
}
FAULTS = ("busy", "error", "reset", "cut_request", "cut_answer")  # all that pass
RESET_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER
SECONDS_TO_STOP = 0.01


@dataclass
class Exchange:
    """A request and what came back; counted from 0."""

    number: int
    method: str
    name: str  # of the object, with its query
    byte_range: str | None
    body_bytes: int = 0  # that the proxy sent back
    fault: str | None = None


PipelineError = Callable[[Exchange], str | None]


class Handler(BaseHTTPRequestHandler):
    """Passes a request on, unless something shall go wrong with it."""

    protocol_version = "HTTP/1.1"
    server: Proxy

    def answer(self) -> None:
        exchange = self.server.next_exchange(self.command, self.path, self.headers.get("range"))
        length = int(self.headers.get("content-length", 0))
        if exchange.fault in ("reset", "cut_request"):
            self.rfile.read(0 if exchange.fault == "reset" else length // 2)
            self.hang_up()
            return
        body = self.rfile.read(length)
        if exchange.fault in ANSWERS:
            status, code = ANSWERS[exchange.fault]
            self.reply(exchange, status, [], f"<Error><Code>{code}</Code></Error>".encode())
            return
        dropped = CONDITIONS if self.server.drops_conditions else ()
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        behind = HTTPConnection(urlsplit(self.server.endpoint).netloc)
        behind.request(self.command, self.path, body, headers)
        answer = behind.getresponse()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP]
        self.reply(exchange, answer.status, kept, answer.read(), answer.getheader("content-length", "0"))

    def reply(
        self, exchange: Exchange, status: int, headers: list[tuple[str, str]], body: bytes, length: str = ""
    ) -> None:
        has_body = self.command != "HEAD"
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)) if has_body else length)
        self.end_headers()
        sent = body if has_body else b""
        if exchange.fault == "cut_answer":
            sent = sent[: len(sent) // 2]
        self.wfile.write(sent)
        exchange.body_bytes = len(sent)
        if exchange.fault == "cut_answer":
            self.hang_up()

    def hang_up(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_ONCE)
        self.connection.close()
        self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815 - the names http.server calls

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


class Proxy(ThreadingHTTPServer):
    """See `proxy`."""

    daemon_threads = True

    def __init__(
        self, endpoint: str, fault: PipelineError, exchanges: list[Exchange], drops_conditions: bool
    ) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint, self.fault, self.exchanges = endpoint, fault, exchanges
        self.drops_conditions = drops_conditions
        self._guard = threading.Lock()

    def next_exchange(self, method: str, name: str, byte_range: str | None) -> Exchange:
        with self._guard:
            exchange = Exchange(len(self.exchanges), method, name, byte_range)
            self.exchanges.append(exchange)
        exchange.fault = self.fault(exchange)
        return exchange

    def handle_error(self, *_arguments: object) -> None:
        """Say nothing of connections that a test wanted broken."""


@contextmanager
def proxy(
    endpoint: str,
    *,
    fault: PipelineError = lambda _exchange: None,
    exchanges: list[Exchange] | None = None,
    drops_conditions: bool = False,
) -> Iterator[str]:
    """Yield the address of a proxy.

    Args:
        endpoint: The server behind it.
        fault: What goes wrong with a request, None for nothing: one of `ANSWERS` instead of the server's; the
            connection gone before the body is read (`reset`), in the middle of it (`cut_request`), or in the
            middle of the answer (`cut_answer`).
        exchanges: Every request is put here.
        drops_conditions: It forgets If-Match and If-None-Match, as some S3 servers do.
    """
    server = Proxy(endpoint, fault, [] if exchanges is None else exchanges, drops_conditions)
    threading.Thread(target=server.serve_forever, args=(SECONDS_TO_STOP,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
