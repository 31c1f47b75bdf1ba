"""HTTP client for endpoints: POST a request, with limits on time and bytes, and retries."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
from pydantic import SecretStr
from yarl import URL

from components.errors import ConfigurationError
from components.http.proxies import LOGIN_WANTED, Proxies
from components.http.retry import HttpFailure, retry_after_seconds, retrying
from components.settings.requests import HttpRequests

Answer = TypeVar("Answer")
VALID = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?#\[\]]|%[0-9A-Fa-f]{2})*")  # RFC 3986


@dataclass(frozen=True)
class Server:
    """A server, and its names in messages.

    Attributes:
        endpoint: Base URL, up to and with `/v1`.
        key: Bearer token, sent to this address only; empty: none.
        variable: Environment variable of the base URL.
        key_variable: Environment variable of the key.
        section: Params section that needs the server.
        model: Model that is requested.
    """

    endpoint: str
    key: SecretStr
    variable: str
    key_variable: str
    section: str
    model: str

    def url(self, *path: str) -> URL:
        """Return a URL below the base URL.

        Raises:
            ConfigurationError: the base URL is invalid, or holds a password or a query, which servers log.
        """
        is_valid = VALID.fullmatch(self.endpoint) is not None  # then it is sent unchanged, with its escapes
        try:
            url = URL(self.endpoint, encoded=is_valid)
            is_address = url.scheme in ("http", "https") and bool(url.host) and url.port is not None
        except (ValueError, IndexError):
            is_address = False
        if not is_address:
            raise ConfigurationError(
                f"{self.variable} is no http(s) address; {self.section} of kind endpoint need one, such as "
                "https://host/v1"
            )
        if url.user or url.password or url.query_string or url.fragment:
            raise ConfigurationError(
                f"{self.variable} holds more than scheme, host and path; expected no secret in it: put the "
                f"key in {self.key_variable}"
            )
        return url.joinpath(*path, encoded=is_valid)


class Connection:
    """Connections to a server within one event loop.

    Args:
        server: The server.
        url: URL of the requests, from `Server.url`.
        what: Service that is expected there, for messages.
        requests: Section of params with limits and retries.
        max_answer_bytes: A longer answer is an error.
    """

    def __init__(
        self, server: Server, url: URL, what: str, requests: HttpRequests, max_answer_bytes: int
    ) -> None:
        self._server, self._url, self._what = server, url, what
        self._requests, self._max_answer_bytes = requests, max_answer_bytes
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=requests.connections),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            headers={"Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        self._proxy = Proxies().of(url)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def ask(self, body: dict[str, Any], read: Callable[[bytes], Answer]) -> Answer:
        """POST a JSON body and return the answer, parsed by `read`.

        Raises:
            HttpFailure: with the reason, after the retries that params allow; `read` may raise it as well.
            ConfigurationError: the server refuses the key, address or model, or a proxy wants a login.
            InfrastructureError: the proxy of the environment does not answer.
        """
        requests = self._requests

        async def attempt() -> Answer:
            return read(await self._post(body))

        def wait_seconds(retry: int, failure: HttpFailure) -> float:
            server_seconds = min(failure.retry_after_seconds, requests.max_retry_after_seconds)
            return max(requests.backoff_seconds * 2**retry, server_seconds)

        try:
            async with asyncio.timeout(requests.deadline_seconds):
                return await retrying(requests.retries, wait_seconds)(attempt)
        except TimeoutError:
            if self._proxy and not await asyncio.to_thread(self._proxy.answers):
                raise self._proxy.no_answer() from None
            raise HttpFailure("timeout") from None

    async def _post(self, body: dict[str, Any]) -> bytes:
        key = self._server.key.get_secret_value()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            async with self._session.post(
                self._url,
                json=body,
                headers=headers,
                allow_redirects=False,
                proxy=self._proxy.url if self._proxy else None,
            ) as response:
                self._check(response)
                answer = bytearray()
                async for chunk in response.content.iter_any():
                    answer += chunk
                    if len(answer) > self._max_answer_bytes:
                        raise HttpFailure("answer_too_large")
                return bytes(answer)
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise self._translated(error) from None

    def _translated(self, error: Exception) -> Exception:
        """Return the exception to raise for an error of aiohttp."""
        if self._proxy and isinstance(error, aiohttp.ClientError) and self._proxy.is_cause_of(error):
            return HttpFailure("connection_failed", at_last=self._proxy.no_answer())
        if isinstance(error, aiohttp.ClientHttpProxyError):
            if self._proxy and error.status == LOGIN_WANTED:
                return self._proxy.no_login()
            return HttpFailure(f"http_{error.status}")
        return HttpFailure("connection_failed")

    def _check(self, response: aiohttp.ClientResponse) -> None:
        status, origin, server = response.status, self._url.origin(), self._server
        if status == 200:
            return
        if self._proxy and status == LOGIN_WANTED:
            raise self._proxy.no_login()
        if status in (401, 403):
            raise ConfigurationError(
                f"{origin} answers {status}; expected a key that it accepts: set {server.key_variable}"
            )
        if status in (404, 405) or 300 <= status < 400:
            raise ConfigurationError(
                f"{origin} answers {status} to {self._url.path}; expected {self._what} there, and that it "
                f"knows model {server.model}: fix {server.variable} or {server.section}"
            )
        raise HttpFailure(f"http_{status}", retry_after_seconds=retry_after_seconds(response.headers))
