"""One image over HTTP: bounded in time, bytes and reach, whatever the server does."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from components.download.addresses import PublicResolver, checked_url
from components.download.refusal import Refused, may_pass
from components.settings.download import Fetch

CHUNK_BYTES = 1 << 16
NAME_SECONDS = 300  # that a looked-up name is used for
REDIRECTS = (301, 302, 303, 307, 308)
OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
VALUED_DIRECTIVES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


@dataclass(frozen=True)
class Body:
    """The bytes of an answer, and where they are from if the server sent us on."""

    data: bytes
    final_url: str | None


class Fetcher:
    """Fetches images within one event loop, so many at a time and so many per host."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._all = asyncio.Semaphore(fetch.connections)
        self._by_host: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(fetch.connections_per_host)
        )
        self._resolver = PublicResolver(fetch)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, resolver=self._resolver, ttl_dns_cache=NAME_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            headers={"User-Agent": fetch.user_agent, "Accept": "image/*", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._resolver.close()

    @asynccontextmanager
    async def fetched(self, text: str) -> AsyncIterator[Body]:
        """Yield what a URL answers; its turn is held within the block, so that few bodies are in memory.

        Raises:
            Refused: with the reason, after the retries that params allow.
        """
        url = checked_url(text, self._fetch)
        clock = asyncio.get_running_loop().time
        left_seconds = self._fetch.deadline_seconds  # for all attempts and the waits between them
        for attempt in range(self._fetch.retries + 1):
            # waiting for a turn does not count against the deadline; the host's turn comes first, so that
            # the queue of one slow host takes no turn from the others
            async with self._by_host[str(url.host)], self._all:
                start_seconds = clock()
                try:
                    async with asyncio.timeout(left_seconds):
                        body = await self._follow(url)
                except TimeoutError:
                    is_nameless = self._resolver.is_looking_up(str(url.raw_host))
                    raise Refused("dns_failed" if is_nameless else "timeout") from None
                except Refused as refused:
                    if not refused.may_pass or attempt == self._fetch.retries:
                        raise
                    backoff_seconds = self._fetch.backoff_seconds * 2**attempt
                    wait_seconds = max(backoff_seconds, refused.retry_after_seconds)
                    left_seconds -= clock() - start_seconds
                else:
                    yield body
                    return
            wait_seconds = min(wait_seconds, left_seconds / 2)  # what is left is for the next attempt
            left_seconds -= wait_seconds
            await asyncio.sleep(wait_seconds)
        raise AssertionError("the last attempt returns or raises")

    async def _follow(self, url: URL) -> Body:
        asked = url
        for _ in range(self._fetch.max_redirects + 1):
            answer = await self._ask(url)
            if isinstance(answer, bytes):
                return Body(answer, None if url is asked else str(url))
            target = checked_url(answer, self._fetch)
            if (url.scheme, target.scheme) == ("https", "http"):
                raise Refused("https_downgrade")  # a list that says https means it
            url = target
        raise Refused("too_many_redirects")

    async def _ask(self, url: URL) -> bytes | str:
        """Return the body, or where the server sends us."""
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status in REDIRECTS:
                    return _target(url, response.headers.get("Location", ""))
                self._check(response)
                return await self._body(response)
        except aiohttp.ClientSSLError:
            raise Refused("tls") from None
        except aiohttp.ClientPayloadError:
            raise Refused("short_body", may_pass=True) from None
        except (aiohttp.InvalidURL, ValueError):
            raise Refused("bad_url") from None
        except aiohttp.ClientResponseError:
            raise Refused("bad_response") from None
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise Refused("connection_failed", may_pass=True) from None

    def _check(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status != 200:
            reason = f"http_{status}"
            after = _retry_after_seconds(response.headers)
            raise Refused(reason, may_pass=may_pass(reason), retry_after_seconds=after)
        if opted_out(response.headers, self._fetch.user_agent):
            raise Refused("opted_out")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Refused("encoded_body")
        if (response.content_length or 0) > self._fetch.max_bytes:
            raise Refused("too_large")

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            body += chunk
            if len(body) > self._fetch.max_bytes:
                raise Refused("too_large")
        return bytes(body)


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


def _target(url: URL, location: str) -> str:
    if not location:
        raise Refused("bad_response")
    try:
        return str(url.join(URL(location)))
    except ValueError:
        raise Refused("bad_url") from None


def _retry_after_seconds(headers: CIMultiDictProxy[str]) -> float:
    """Return the seconds a server asks for: in number, or until a date by its own clock; 0 if it does not."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,12}", value):
        return float(value)
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("Date", ""))
    except (TypeError, ValueError):
        return 0.0
    return max(0.0, wait.total_seconds())
