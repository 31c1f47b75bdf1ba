"""Turn one HTTP answer into an image, a growing file, or a redirect."""

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

PIECE_BYTES = 1 << 16  # that come out of a coding at a time
GZIP = frozenset({"gzip", "x-gzip"})
UNDONE = GZIP | {"deflate"}
GZIP_START = b"\x1f\x8b"
START_BYTES = 2  # that tell what a member is
MAX_CODINGS = 5  # one within another, as curl
ZLIB_METHOD, ZLIB_CHECK = 8, 31  # of the first two bytes of RFC 1950
# IANA's list and what servers send besides; any other word is no coding, and browsers pass the body on
NOT_UNDONE = frozenset(
    {
        "aes128gcm", "br", "bzip2", "compress", "dcb", "dcz", "exi", "lzma", "pack200-gzip", "sdch",
        "x-bzip2", "x-compress", "xz", "x-xz", "zstd",
    }
)  # fmt: skip


def codings_of(headers: CIMultiDictProxy[str]) -> list[Deflated]:
    """Return what is to be undone, in this order; `identity`, `aws-chunked` and unknown words are nothing.

    Raises:
        Refused: a coding that cannot be undone.
    """
    words = ",".join(headers.getall("Content-Encoding", [])).lower().split(",")
    names = [word.partition(";")[0].strip() for word in reversed(words)]
    codings = [Deflated(is_gzip=name in GZIP) for name in names if name in UNDONE]
    if NOT_UNDONE.intersection(names) or len(codings) > MAX_CODINGS:
        raise Refused("encoded_body")
    return codings


def decoded(codings: list[Deflated], data: bytes) -> Iterator[bytes]:
    """Yield what bytes mean after all codings; empty ones say that nothing more comes.

    Raises:
        Refused: they are damaged, or something is lacking.
    """
    if not codings:
        yield data
        return
    first, *others = codings
    for piece in first.feed(data):
        yield from decoded(others, piece)
    if not data:
        first.end()
        yield from decoded(others, data)


class Deflated:
    """gzip of one or many members, or deflate with zlib's frame or, as some servers send it, without one."""

    def __init__(self, *, is_gzip: bool) -> None:
        self._is_gzip = is_gzip
        self._start = b""  # of a member, until it can be told what it is
        self._inflater: zlib._Decompress | None = None
        self._members = 0  # that are whole
        self._is_over = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what some bytes mean, `PIECE_BYTES` at most at a time.

        Raises:
            Refused: they are damaged.
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
        """Say that nothing more comes.

        Raises:
            Refused: something is lacking.
        """
        if self._members == 0 and self._is_gzip and not GZIP_START.startswith(self._start):
            raise Refused("encoded_body")
        if self._inflater is not None or (self._start and not self._members):
            raise Refused("short_body", may_pass=True)

    def _inflater_of(self, start: bytes) -> zlib._Decompress | None:
        """Return what undoes a member; None where something else follows the last one, as browsers allow."""
        if self._members and not (self._is_gzip and start.startswith(GZIP_START)):
            self._is_over = True
            return None
        if self._is_gzip:
            return zlib.decompressobj(zlib.MAX_WBITS + 16)
        is_framed = start[0] & 0x0F == ZLIB_METHOD and int.from_bytes(start[:2], "big") % ZLIB_CHECK == 0
        return zlib.decompressobj(zlib.MAX_WBITS if is_framed else -zlib.MAX_WBITS)


CHUNK_BYTES = 1 << 16
PART = 206
WHOLE = frozenset(range(200, 300)) - {204, 205, PART}  # whose body is all of it
REDIRECTS = (301, 302, 303, 307, 308)
OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
VALUED_DIRECTIVES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")

T = TypeVar("T")
Take = Callable[[aiohttp.ClientResponse], Awaitable[T]]


@dataclass(frozen=True)
class Body:
    """The bytes of an answer, and where they are from if the server sent us on."""

    data: bytes
    final_url: str | None


@dataclass(frozen=True)
class Elsewhere:
    """Where a server sends us; not checked."""

    url: str


def elsewhere(url: URL, response: aiohttp.ClientResponse) -> Elsewhere:
    """Return where an answer sends who asked for `url`.

    Raises:
        Refused: nowhere.
    """
    location = response.headers.get("Location", "")
    if not location:
        raise Refused("bad_response")
    return Elsewhere(resolved(url, location))


async def image_body(response: aiohttp.ClientResponse, fetch: Fetch) -> bytes:
    """Return the bytes of an image.

    Raises:
        Refused: it is none that may be used, or more bytes than allowed.
    """
    _check(response, WHOLE)
    if opted_out(response.headers, fetch.user_agent):
        raise Refused("opted_out")
    codings = codings_of(response.headers)
    if (response.content_length or 0) > fetch.max_bytes:
        raise Refused("too_large")
    body = bytearray()
    came_bytes = 0
    async for chunk in _chunks(response):
        came_bytes += len(chunk)
        for piece in decoded(codings, chunk):
            body += piece
            if len(body) > fetch.max_bytes:
                raise Refused("too_large")
        if came_bytes > fetch.max_bytes:
            raise Refused("too_large")
    return bytes(body)


class Saving:
    """A file that comes in one answer, or in several after cuts.

    Args:
        path: Where to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tag = ""  # of the version that `path` holds a beginning of

    def headers(self) -> dict[str, str]:
        """Return what asks for the rest, or for all if the server could not tell that it is the same file."""
        asked = {"Accept": "*/*"}
        if self._tag:
            asked |= {"Range": f"bytes={self._here()}-", "If-Range": self._tag}
        return asked

    async def take(self, response: aiohttp.ClientResponse) -> None:
        """Write an answer to the file.

        Raises:
            Refused: it is neither the whole file nor the part that was asked for.
        """
        _check(response, WHOLE | {PART} if self._tag else WHOLE)
        codings = codings_of(response.headers)
        goes_on = response.status == PART
        asked = f"bytes {self._here()}-"
        if goes_on and (codings or not response.headers.get("Content-Range", "").startswith(asked)):
            raise Refused("bad_response")
        if not goes_on:
            tag = response.headers.get("ETag", "")
            # parts are of what is sent, and what was decoded is of another length
            self._tag = "" if codings or tag.startswith("W/") else tag
        with self._path.open("ab" if goes_on else "wb") as file:
            async for chunk in _chunks(response):
                for piece in decoded(codings, chunk):
                    file.write(piece)

    def _here(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0


def opted_out(headers: CIMultiDictProxy[str], user_agent: str) -> bool:
    """Say whether X-Robots-Tag asks everyone, or this user agent by name, not to use the image."""
    for value in headers.getall("X-Robots-Tag", []):
        concerns_us = True
        for part in value.lower().split(","):
            agent, colon, directive = part.partition(":")
            if colon and agent.strip() not in VALUED_DIRECTIVES:
                concerns_us = agent.strip() in user_agent.lower()
            else:
                directive = part
            if concerns_us and directive.strip() in OPT_OUTS:
                return True
    return False


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the bytes that come, and empty ones when nothing more comes."""
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        yield chunk
    yield b""


def _check(response: aiohttp.ClientResponse, wanted: frozenset[int]) -> None:
    if response.status not in wanted:
        reason = f"http_{response.status}"
        after = retry_after_seconds(response.headers)
        raise Refused(reason, may_pass=may_pass(reason), retry_after_seconds=after)
