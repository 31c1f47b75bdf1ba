"""Content codings: gzip and deflate within bounded memory, others refused."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from multidict import CIMultiDictProxy

from components.download.refusal import Refused

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
