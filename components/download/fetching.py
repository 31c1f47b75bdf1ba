"""HTTP client for images: bounded in time, bytes and reach.

Headers are read as leniently as browsers do, for which aiohttp has no setting: a head passes through `tidied`
before the parser sees it, line by line; what is no header field is left out, and so is a length that is given
again or that chunks make void.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import BadHttpMessage
from tenacity import RetryCallState
from yarl import URL

from components.download.addresses import PublicResolver, checked_url
from components.download.answers import REDIRECTS, Body, Elsewhere, Saving, Take, elsewhere, image_body
from components.download.refusal import Refused, may_pass
from components.http.proxies import LOGIN_WANTED, Proxies
from components.http.retry import HttpFailure, retrying
from components.settings.download import Fetch

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


NAME_SECONDS = 300  # that a looked-up name is used for
T = TypeVar("T")


class Fetcher:
    """Fetches images within one event loop, so many at a time and so many per host."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._all = asyncio.Semaphore(fetch.connections)
        self._by_host: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(fetch.connections_per_host)
        )
        self._resolver = PublicResolver(fetch)
        self._direct = _session(fetch, self._resolver)
        # it looks up proxies alone, whose addresses may be private
        self._proxied = _session(fetch, aiohttp.ThreadedResolver())

    @cached_property
    def _proxies(self) -> Proxies:
        """A broken variable stops nobody who fetches nothing."""
        return Proxies(direct=self._fetch.allowed_private_hosts)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._direct.close()
        await self._proxied.close()
        await self._resolver.close()

    @asynccontextmanager
    async def fetched(self, text: str) -> AsyncIterator[Body]:
        """Yield what a URL answers; its turn is held within the block, so that few bodies are in memory.

        Raises:
            Refused: with the reason, after the retries that params allow.
            InfrastructureError: the proxy that the environment names does not answer.
            ConfigurationError: it wants a login.
        """
        url = checked_url(text, self._fetch)
        host = str(url.raw_host)
        clock = asyncio.get_running_loop().time
        left_seconds = self._fetch.deadline_seconds  # for all attempts and the waits between them
        turn = AsyncExitStack()

        async def attempt() -> Body:
            nonlocal left_seconds
            # waiting for a turn does not count against the deadline; the host's turn comes first, so that
            # the queue of one slow host takes no turn from the others
            await turn.enter_async_context(self._by_host[host])
            await turn.enter_async_context(self._all)
            start_seconds = clock()
            try:
                async with asyncio.timeout(left_seconds):
                    return await self._body_of(url)
            except TimeoutError:
                await self._check_proxy(url)
                raise Refused("dns_failed" if self._resolver.is_looking_up(host) else "timeout") from None
            finally:
                left_seconds -= clock() - start_seconds

        def wait_seconds(number: int, refused: HttpFailure) -> float:
            nonlocal left_seconds
            wanted_seconds = max(self._fetch.backoff_seconds * 2**number, refused.retry_after_seconds)
            waited_seconds = min(wanted_seconds, left_seconds / 2)  # what is left is for the next attempt
            left_seconds -= waited_seconds
            return waited_seconds

        async def leave_turn(_: RetryCallState) -> None:
            await turn.aclose()

        async with turn:
            yield await retrying(self._fetch.retries, wait_seconds, leave_turn)(attempt)

    async def saved(self, text: str, path: Path) -> None:
        """Write what a URL answers to a file, however large it is.

        The deadline is for each wait for the next bytes. After a cut it is asked for what is lacking, if the
        server can tell that it is still the same file, else for all of it.

        Raises:
            Refused: with the reason, after the retries that params allow.
            InfrastructureError: the proxy that the environment names does not answer.
            ConfigurationError: it wants a login.
        """
        url, saving = checked_url(text, self._fetch), Saving(path)
        silence = aiohttp.ClientTimeout(
            total=None, connect=self._fetch.deadline_seconds, sock_read=self._fetch.deadline_seconds
        )

        async def attempt() -> None:
            try:
                async with self._by_host[str(url.raw_host)], self._all:
                    await self._follow(url, saving.take, headers=saving.headers(), timeout=silence)
            except TimeoutError:
                raise Refused("timeout", may_pass=True) from None

        def wait_seconds(number: int, refused: HttpFailure) -> float:
            asked_seconds = min(refused.retry_after_seconds, self._fetch.deadline_seconds)
            return max(self._fetch.backoff_seconds * 2**number, asked_seconds)

        try:
            await retrying(self._fetch.retries, wait_seconds)(attempt)
        except Refused as refused:
            if refused.reason == "timeout":
                await self._check_proxy(url)
            raise

    async def _body_of(self, url: URL) -> Body:
        data, final = await self._follow(url, partial(image_body, fetch=self._fetch))
        return Body(data, None if final is url else str(final))

    async def _follow(
        self,
        url: URL,
        take: Take[T],
        **options: Any,  # noqa: ANN401 - of aiohttp
    ) -> tuple[T, URL]:
        """Return what was taken of the answer, and where redirects ended."""
        for _ in range(self._fetch.max_redirects + 1):
            answer = await self._ask(url, take, options)
            if not isinstance(answer, Elsewhere):
                return answer, url
            target = checked_url(answer.url, self._fetch)
            if (url.scheme, target.scheme) == ("https", "http"):
                raise Refused("https_downgrade")  # a list that says https means it
            url = target
        raise Refused("too_many_redirects")

    async def _ask(self, url: URL, take: Take[T], options: dict[str, Any]) -> T | Elsewhere:
        """Return what is taken of the answer, or where the server sends us."""
        proxy = self._proxies.of(url)
        session = self._proxied if proxy else self._direct
        try:
            async with session.get(
                url, allow_redirects=False, proxy=proxy.url if proxy else None, **options
            ) as response:
                if proxy and response.status == LOGIN_WANTED:
                    raise proxy.no_login()
                if response.status in REDIRECTS:
                    return elsewhere(url, response)
                return await take(response)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, TimeoutError):
                raise
            if proxy and isinstance(error, aiohttp.ClientError) and proxy.is_cause_of(error):
                raise Refused("proxy_failed", may_pass=True, at_last=proxy.no_answer()) from None
            if proxy and isinstance(error, aiohttp.ClientHttpProxyError) and error.status == LOGIN_WANTED:
                raise proxy.no_login() from None
            raise refused_by(error) from None

    async def _check_proxy(self, url: URL) -> None:
        """After a timeout: rows are not to blame where nothing takes connections."""
        proxy = self._proxies.of(url)
        if proxy and not await asyncio.to_thread(proxy.answers):
            raise proxy.no_answer()


def refused_by(error: Exception) -> Refused:
    """Return what an error of the client means for an image."""
    if isinstance(error, aiohttp.ClientHttpProxyError):  # the proxy could not reach it, or will not
        reason = f"http_{error.status}"
        return Refused(reason, may_pass=may_pass(reason))
    reasons: list[tuple[type[Exception], Refused]] = [
        (aiohttp.ClientSSLError, Refused("tls")),
        (aiohttp.ClientPayloadError, Refused("short_body", may_pass=True)),
        (ValueError, Refused("bad_url")),
        (aiohttp.ClientResponseError, Refused("bad_response")),
    ]
    default = Refused("connection_failed", may_pass=True)
    return next((refused for kind, refused in reasons if isinstance(error, kind)), default)


def _session(fetch: Fetch, resolver: AbstractResolver) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=ForgivingConnector(limit=0, resolver=resolver, ttl_dns_cache=NAME_SECONDS),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        headers={"User-Agent": fetch.user_agent, "Accept": "image/*", "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,  # it would read .netrc as well, and take a broken variable for none
        max_field_size=MAX_HEAD_BYTES,
        max_headers=MAX_FIELDS,
    )
