"""Parse HTTP headers as leniently as browsers, bounded as a whole.

aiohttp has no setting for it. A head goes through here before the parser sees it, line by line: what is no
header field is left out, and so is a length that is given again or that chunks make void.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import BadHttpMessage

MAX_HEAD_BYTES = 256 << 10  # as in Chromium
MAX_FIELDS = 5000  # as curl
END_BYTES = 4
HEAD_END = re.compile(rb"\r?\n\r?\n")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*:[ \t]*(.*?)[ \t\r]*\Z", re.DOTALL)
INTERIM = re.compile(rb"HTTP/1\.\d 1(?!01)\d\d\b")  # another head follows
CHUNKED = re.compile(rb"(.*,)?[ \t]*chunked", re.IGNORECASE)


class ForgivingConnector(aiohttp.TCPConnector):
    """Makes connections on which heads are read as browsers read them."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - of aiohttp
        super().__init__(**options)
        self._factory = partial(_handler, loop=self._loop)


class ForgivingHandler(ResponseHandler):
    """Holds back what comes until a head is whole, then hands on what `tidied` makes of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._head: bytearray | None = None  # None: what comes is no head

    def set_response_params(self, **options: Any) -> None:  # noqa: ANN401 - of aiohttp
        """Expect a head."""
        self._head = bytearray()
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._head is None:
            super().data_received(data)
            return
        seen = max(0, len(self._head) - END_BYTES)
        self._head += data
        while self._head is not None and (end := HEAD_END.search(self._head, seen)):
            if end.end() > MAX_HEAD_BYTES:
                break
            head, rest, seen = bytes(self._head[: end.end()]), self._head[end.end() :], 0
            self._head = bytearray(rest) if INTERIM.match(head) else None
            super().data_received(tidied(head) + (b"" if self._head is not None else bytes(rest)))
        if self._head is not None and len(self._head) > MAX_HEAD_BYTES:
            self._refuse()

    def eof_received(self) -> None:
        """See asyncio.Protocol."""
        if self._head:  # let the parser say what is wrong with it
            data, self._head = bytes(self._head), None
            super().data_received(data)
        super().eof_received()

    def _refuse(self) -> None:
        self._head = None
        if self.transport is not None:
            self.transport.close()
        self.set_exception(BadHttpMessage(f"a head of more than {MAX_HEAD_BYTES} bytes"))


def _handler(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return ForgivingHandler(loop)


def tidied(head: bytes) -> bytes:
    """Return a head without what browsers pass over.

    Args:
        head: Status line, header fields and the empty line, however lines end.
    """
    status, *lines = head.rstrip(b"\r\n").split(b"\n")
    fields: list[bytes] = []
    for line in lines:
        if fields and line[:1] in (b" ", b"\t"):  # goes on with the one before
            fields[-1] += b" " + line.strip()
        elif FIELD.match(line):
            fields.append(line.rstrip(b"\r"))
    matches = [match for match in map(FIELD.match, fields) if match]
    named = [(match[1].lower(), match[2]) for match in matches]
    lengths = [
        part.strip() for name, value in named if name == b"content-length" for part in value.split(b",")
    ]
    is_chunked = any(name == b"transfer-encoding" and CHUNKED.fullmatch(value) for name, value in named)
    kept = [field for field, (name, _) in zip(fields, named, strict=True) if name != b"content-length"]
    if not is_chunked:
        # those that differ are left to the parser, which refuses them
        kept += [b"Content-Length: " + length for length in dict.fromkeys(filter(None, lengths))]
    return b"\r\n".join([status.rstrip(b"\r"), *kept, b"", b""])
