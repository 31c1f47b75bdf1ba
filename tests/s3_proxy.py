"""A proxy before an S3 server that misbehaves in a chosen way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

CONDITIONS = ("if-match", "if-none-match")
HOP = ("connection", "transfer-encoding", "content-length")


@contextmanager
def proxy(endpoint: str, *, busy_answers: int = 0, drops_conditions: bool = False) -> Iterator[str]:
    """Yield the address of a proxy.

    Args:
        endpoint: The server behind it.
        busy_answers: It answers so many requests by 503 SlowDown first.
        drops_conditions: It forgets If-Match and If-None-Match, as some S3 servers do.
    """
    left = [busy_answers]
    guard = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            with guard:
                is_busy = left[0] > 0
                left[0] -= is_busy
            if is_busy:
                self.reply(503, [], b"<Error><Code>SlowDown</Code></Error>")
                return
            headers = {
                name: value
                for name, value in self.headers.items()
                if not (drops_conditions and name.lower() in CONDITIONS)
            }
            behind = HTTPConnection(urlsplit(endpoint).netloc)
            behind.request(self.command, self.path, body, headers)
            answer = behind.getresponse()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP]
            length = answer.getheader("content-length", "0")
            self.reply(answer.status, kept, answer.read(), length)

        def reply(self, status: int, headers: list[tuple[str, str]], body: bytes, length: str = "") -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815 - the names http.server calls

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
