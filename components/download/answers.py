"""Read an HTTP response as an image, as part of a file, or as a redirect; undo its Content-Encoding."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from components.download.refusal import Refused, may_pass
from components.download.urls import resolved
from components.http.retry import retry_after_seconds
from components.settings.download import Fetch

PIECE_BYTES = 1 << 16  # decompressed at a time
GZIP = frozenset({"gzip", "x-gzip"})
UNDONE = GZIP | {"deflate"}
GZIP_START = b"\x1f\x8b"
START_BYTES = 2  # needed to recognise the format of a member
MAX_CODINGS = 5  # nested, as in curl
ZLIB_METHOD, ZLIB_CHECK = 8, 31  # in the first two bytes; RFC 1950
# IANA's list and others that servers send; browsers ignore any other word and use the body as it is
NOT_UNDONE = frozenset(
    {
        "aes128gcm", "br", "bzip2", "compress", "dcb", "dcz", "exi", "lzma", "pack200-gzip", "sdch",
        "x-bzip2", "x-compress", "xz", "x-xz", "zstd",
    }
)  # fmt: skip
CHUNK_BYTES = 1 << 16
PART = 206
WHOLE = frozenset(range(200, 300)) - {204, 205, PART}  # statuses with a complete body
REDIRECTS = (301, 302, 303, 307, 308)
OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
VALUED_DIRECTIVES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
T = TypeVar("T")
Take = Callable[[aiohttp.ClientResponse], Awaitable[T]]


def codings_of(headers: CIMultiDictProxy[str]) -> list[Deflated]:
    """Return the decoders of a response in order; skip `identity`, `aws-chunked` and unknown words.

    Raises:
        Refused: a coding that cannot be decoded, or more than `MAX_CODINGS`.
    """
    words = ",".join(headers.getall("Content-Encoding", [])).lower().split(",")
    names = [word.partition(";")[0].strip() for word in reversed(words)]
    codings = [Deflated(is_gzip=name in GZIP) for name in names if name in UNDONE]
    if NOT_UNDONE.intersection(names) or len(codings) > MAX_CODINGS:
        raise Refused("encoded_body")
    return codings


def decoded(codings: list[Deflated], data: bytes) -> Iterator[bytes]:
    """Decode a chunk through all codings and yield the result; empty `data` marks the end of the body.

    Raises:
        Refused: the data is damaged or cut off.
    """
    if not codings:
        yield data
        return
    coding, *remaining = codings
    for piece in coding.feed(data):
        yield from decoded(remaining, piece)
    if not data:
        coding.end()
        yield from decoded(remaining, data)


class Deflated:
    """Decoder of gzip (one or many members) and deflate (with zlib's header or, as some send it, without)."""

    def __init__(self, *, is_gzip: bool) -> None:
        self._is_gzip = is_gzip
        self._start = b""  # first bytes of a member, until its format is known
        self._inflater: zlib._Decompress | None = None
        self._members = 0  # complete ones
        self._is_over = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decompress bytes and yield them in pieces of at most `PIECE_BYTES`.

        Raises:
            Refused: the data is damaged.
        """
        while not self._is_over:
            if self._inflater is None:
                data, self._start = self._start + data, b""
                if len(data) < START_BYTES:
                    self._start = data
                    return
                self._inflater = self._inflater_of(data)
                continue
            try:
                piece = self._inflater.decompress(data, PIECE_BYTES)
            except zlib.error:
                raise Refused("encoded_body") from None
            if piece:
                yield piece
            data = self._inflater.unconsumed_tail
            if self._inflater.eof:
                data, self._inflater = self._inflater.unused_data, None
                self._members += 1
            elif not data and len(piece) < PIECE_BYTES:
                return

    def end(self) -> None:
        """Check at the end of the body that nothing is missing.

        Raises:
            Refused: the data is cut off.
        """
        if self._members == 0 and self._is_gzip and not GZIP_START.startswith(self._start):
            raise Refused("encoded_body")
        if self._inflater is not None or (self._start and not self._members):
            raise Refused("short_body", may_pass=True)

    def _inflater_of(self, start: bytes) -> zlib._Decompress | None:
        """Return a decompressor for a member; None for other bytes after the last, which browsers ignore."""
        if self._members and not (self._is_gzip and start.startswith(GZIP_START)):
            self._is_over = True
            return None
        if self._is_gzip:
            return zlib.decompressobj(zlib.MAX_WBITS + 16)
        is_framed = start[0] & 0x0F == ZLIB_METHOD and int.from_bytes(start[:2], "big") % ZLIB_CHECK == 0
        return zlib.decompressobj(zlib.MAX_WBITS if is_framed else -zlib.MAX_WBITS)


@dataclass(frozen=True)
class Body:
    """The bytes of a response, and the URL they came from after redirects; None without any."""

    data: bytes
    final_url: str | None


@dataclass(frozen=True)
class Elsewhere:
    """The target of a redirect; not checked."""

    url: str


def elsewhere(url: URL, response: aiohttp.ClientResponse) -> Elsewhere:
    """Return the target of a redirect response to a request of `url`.

    Raises:
        Refused: the response has no Location header.
    """
    location = response.headers.get("Location", "")
    if not location:
        raise Refused("bad_response")
    return Elsewhere(resolved(url, location))


async def image_body(response: aiohttp.ClientResponse, fetch: Fetch) -> bytes:
    """Return the bytes of an image.

    Raises:
        Refused: an error status, an image that opts out, a coding we cannot decode, or too many bytes.
    """
    _check(response, WHOLE)
    if opted_out(response.headers, fetch.user_agent):
        raise Refused("opted_out")
    codings = codings_of(response.headers)
    if (response.content_length or 0) > fetch.max_bytes:
        raise Refused("too_large")
    body = bytearray()
    received_bytes = 0
    async for chunk in _chunks(response):
        received_bytes += len(chunk)
        for piece in decoded(codings, chunk):
            body += piece
            if len(body) > fetch.max_bytes:
                raise Refused("too_large")
        if received_bytes > fetch.max_bytes:
            raise Refused("too_large")
    return bytes(body)


class Saving:
    """Save a file from one response, or from several when the connection breaks off.

    Args:
        path: File to write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tag = ""  # ETag of the version whose first bytes are in `path`

    def headers(self) -> dict[str, str]:
        """Return headers that ask for the missing rest, or for the whole file without a strong ETag."""
        headers = {"Accept": "*/*"}
        if self._tag:
            headers |= {"Range": f"bytes={self._saved_bytes()}-", "If-Range": self._tag}
        return headers

    async def take(self, response: aiohttp.ClientResponse) -> None:
        """Write a response to the file.

        Raises:
            Refused: the response is neither the whole file nor the requested part.
        """
        _check(response, WHOLE | {PART} if self._tag else WHOLE)
        codings = codings_of(response.headers)
        is_continued = response.status == PART
        expected_range = f"bytes {self._saved_bytes()}-"
        if is_continued and (
            codings or not response.headers.get("Content-Range", "").startswith(expected_range)
        ):
            raise Refused("bad_response")
        if not is_continued:
            tag = response.headers.get("ETag", "")
            # byte ranges count encoded bytes, so a decoded file cannot be continued
            self._tag = "" if codings or tag.startswith("W/") else tag
        with self._path.open("ab" if is_continued else "wb") as file:
            async for chunk in _chunks(response):
                for piece in decoded(codings, chunk):
                    file.write(piece)

    def _saved_bytes(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0


def opted_out(headers: CIMultiDictProxy[str], user_agent: str) -> bool:
    """Say whether X-Robots-Tag forbids all clients, or this user agent by name, to use the image."""
    for value in headers.getall("X-Robots-Tag", []):
        applies_to_us = True
        for part in value.lower().split(","):
            agent, colon, directive = part.partition(":")
            if colon and agent.strip() not in VALUED_DIRECTIVES:
                applies_to_us = agent.strip() in user_agent.lower()
            else:
                directive = part
            if applies_to_us and directive.strip() in OPT_OUTS:
                return True
    return False


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the chunks of a body, then an empty one at its end."""
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        yield chunk
    yield b""


def _check(response: aiohttp.ClientResponse, allowed: frozenset[int]) -> None:
    if response.status not in allowed:
        reason = f"http_{response.status}"
        wait_seconds = retry_after_seconds(response.headers)
        raise Refused(reason, may_pass=may_pass(reason), retry_after_seconds=wait_seconds)
