"""HTTP client for images with limits on time, bytes, hosts and addresses.

It parses response headers as leniently as browsers do. aiohttp has no setting for this, so `tidied` cleans
the header block before aiohttp's parser sees it. `tidied` drops lines that are no header field, repeated
Content-Length values, and any Content-Length of a chunked response.
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
NAME_SECONDS = 300  # how long a DNS answer is cached
T = TypeVar("T")


class ForgivingConnector(aiohttp.TCPConnector):
    """Make connections that parse response headers as leniently as browsers do."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - of aiohttp
        super().__init__(**options)
        self._factory = partial(_handler, loop=self._loop)


class ForgivingHandler(ResponseHandler):
    """Buffer incoming bytes until the header block is complete, then pass on its `tidied` form."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._head: bytearray | None = None  # None while a body is read

    def set_response_params(self, **options: Any) -> None:  # noqa: ANN401 - of aiohttp
        """Expect a header block next."""
        self._head = bytearray()
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._head is None:
            super().data_received(data)
            return
        searched_bytes = max(0, len(self._head) - END_BYTES)
        self._head += data
        while self._head is not None and (end := HEAD_END.search(self._head, searched_bytes)):
            if end.end() > MAX_HEAD_BYTES:
                break
            head, rest, searched_bytes = bytes(self._head[: end.end()]), self._head[end.end() :], 0
            self._head = bytearray(rest) if INTERIM.match(head) else None
            super().data_received(tidied(head) + (b"" if self._head is not None else bytes(rest)))
        if self._head is not None and len(self._head) > MAX_HEAD_BYTES:
            self._refuse()

    def eof_received(self) -> None:
        """See asyncio.Protocol."""
        if self._head:  # the parser reports what is wrong with it
            data, self._head = bytes(self._head), None
            super().data_received(data)
        super().eof_received()

    def _refuse(self) -> None:
        self._head = None
        if self.transport is not None:
            self.transport.close()
        self.set_exception(BadHttpMessage(f"response headers of more than {MAX_HEAD_BYTES} bytes"))


def _handler(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return ForgivingHandler(loop)


def tidied(head: bytes) -> bytes:
    """Return a header block without what browsers ignore.

    Args:
        head: Status line, header fields and the empty line, with any line ends.
    """
    status, *lines = head.rstrip(b"\r\n").split(b"\n")
    fields: list[bytes] = []
    for line in lines:
        if fields and line[:1] in (b" ", b"\t"):  # continues the previous field
            fields[-1] += b" " + line.strip()
        elif FIELD.match(line):
            fields.append(line.rstrip(b"\r"))
    matches = [match for match in map(FIELD.match, fields) if match]
    named = [(match[1].lower(), match[2]) for match in matches]
    lengths = [
        part.strip() for name, value in named if name == b"content-length" for part in value.split(b",")
    ]
    is_chunked = any(name == b"transfer-encoding" and CHUNKED.fullmatch(value) for name, value in named)
    result = [field for field, (name, _) in zip(fields, named, strict=True) if name != b"content-length"]
    if not is_chunked:
        # values that differ stay; the parser refuses them
        result += [b"Content-Length: " + length for length in dict.fromkeys(filter(None, lengths))]
    return b"\r\n".join([status.rstrip(b"\r"), *result, b"", b""])


class Fetcher:
    """Fetch images in one event loop, with a limit on connections in total and per host."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._any_host = asyncio.Semaphore(fetch.connections)
        self._by_host: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(fetch.connections_per_host)
        )
        self._resolver = PublicResolver(fetch)
        self._direct = _session(fetch, self._resolver)
        # resolves only the names of proxies, whose addresses may be private
        self._proxied = _session(fetch, aiohttp.ThreadedResolver())

    @cached_property
    def _proxies(self) -> Proxies:
        """Read on first use: a broken proxy variable is no error for a run that fetches nothing."""
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
        """Fetch a URL and yield its body; the connection slot is held within the block, to limit memory.

        Raises:
            Refused: the request failed, after the retries that params allow.
            InfrastructureError: the proxy named by the environment does not answer.
            ConfigurationError: the proxy requires a login.
        """
        url = checked_url(text, self._fetch)
        host = str(url.raw_host)
        clock = asyncio.get_running_loop().time
        left_seconds = self._fetch.deadline_seconds  # for all attempts and the waits between them
        slots = AsyncExitStack()

        async def attempt() -> Body:
            nonlocal left_seconds
            # waiting for a slot does not count against the deadline; the host's slot comes first, so that
            # the queue of one slow host takes no slots from the others
            await slots.enter_async_context(self._by_host[host])
            await slots.enter_async_context(self._any_host)
            start_seconds = clock()
            try:
                async with asyncio.timeout(left_seconds):
                    return await self._fetch_body(url)
            except TimeoutError:
                await self._check_proxy(url)
                raise Refused("dns_failed" if self._resolver.is_looking_up(host) else "timeout") from None
            finally:
                left_seconds -= clock() - start_seconds

        def wait_seconds(number: int, refused: HttpFailure) -> float:
            nonlocal left_seconds
            requested_seconds = max(self._fetch.backoff_seconds * 2**number, refused.retry_after_seconds)
            pause_seconds = min(requested_seconds, left_seconds / 2)  # the rest is for the next attempt
            left_seconds -= pause_seconds
            return pause_seconds

        async def free_slots(_: RetryCallState) -> None:
            await slots.aclose()

        async with slots:
            yield await retrying(self._fetch.retries, wait_seconds, free_slots)(attempt)

    async def saved(self, text: str, path: Path) -> None:
        """Save the body of a URL to a file of any size.

        The deadline limits each wait for the next bytes. After a broken connection the next request asks for
        the missing rest if the server identifies the file by a strong ETag, else for the whole file.

        Raises:
            Refused: the request failed, after the retries that params allow.
            InfrastructureError: the proxy named by the environment does not answer.
            ConfigurationError: the proxy requires a login.
        """
        url, saving = checked_url(text, self._fetch), Saving(path)
        timeout = aiohttp.ClientTimeout(
            total=None, connect=self._fetch.deadline_seconds, sock_read=self._fetch.deadline_seconds
        )

        async def attempt() -> None:
            try:
                async with self._by_host[str(url.raw_host)], self._any_host:
                    await self._follow(url, saving.take, headers=saving.headers(), timeout=timeout)
            except TimeoutError:
                raise Refused("timeout", may_pass=True) from None

        def wait_seconds(number: int, refused: HttpFailure) -> float:
            requested_seconds = min(refused.retry_after_seconds, self._fetch.deadline_seconds)
            return max(self._fetch.backoff_seconds * 2**number, requested_seconds)

        try:
            await retrying(self._fetch.retries, wait_seconds)(attempt)
        except Refused as refused:
            if refused.reason == "timeout":
                await self._check_proxy(url)
            raise

    async def _fetch_body(self, url: URL) -> Body:
        data, final = await self._follow(url, partial(image_body, fetch=self._fetch))
        return Body(data, None if final is url else str(final))

    async def _follow(
        self,
        url: URL,
        take: Take[T],
        **options: Any,  # noqa: ANN401 - of aiohttp
    ) -> tuple[T, URL]:
        """Follow redirects; return what `take` made of the final response, and the final URL."""
        for _ in range(self._fetch.max_redirects + 1):
            result = await self._request(url, take, options)
            if not isinstance(result, Elsewhere):
                return result, url
            target = checked_url(result.url, self._fetch)
            if (url.scheme, target.scheme) == ("https", "http"):
                raise Refused("https_downgrade")  # a URL listed as https must not be fetched over http
            url = target
        raise Refused("too_many_redirects")

    async def _request(self, url: URL, take: Take[T], options: dict[str, Any]) -> T | Elsewhere:
        """Send one request; return what `take` made of the response, or the target of a redirect."""
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
        """Raise after a timeout if the proxy takes no connection: then the row is not the cause."""
        proxy = self._proxies.of(url)
        if proxy and not await asyncio.to_thread(proxy.answers):
            raise proxy.no_answer()


def refused_by(error: Exception) -> Refused:
    """Map an error of the HTTP client to the reason why an image is refused."""
    if isinstance(error, aiohttp.ClientHttpProxyError):  # the proxy could not or would not reach the host
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
        trust_env=False,  # it would also read .netrc, and ignore a broken variable
        max_field_size=MAX_HEAD_BYTES,
        max_headers=MAX_FIELDS,
    )
