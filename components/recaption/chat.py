"""One caption from an OpenAI-compatible endpoint: bounded in time and bytes, whatever the server does."""

from __future__ import annotations

import asyncio
import json
import re

import aiohttp
from pydantic import SecretStr
from yarl import URL

from components.faults import ConfigurationFault
from components.recaption.passing import REASONS
from components.recaption.prompted_captioner import Order, Reply, messages
from components.settings.recaption import EndpointCaptioner

MAX_ANSWER_BYTES = 1 << 20
KEY_VARIABLE, URL_VARIABLE = "LLM2CLIP_CAPTION_ENDPOINT_KEY", "LLM2CLIP_CAPTION_ENDPOINT"


class Failed(Exception):
    """No answer came that could be read; the reason is the text."""

    def __init__(self, reason: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.retry_after_seconds = reason, retry_after_seconds
        self.may_pass = reason in REASONS


def completions_url(endpoint: str) -> URL:
    """Return where chat completions are asked for.

    Args:
        endpoint: The base URL, up to and with `/v1`.

    Raises:
        ConfigurationFault: it is none, or holds a password or a query, which logs of servers would show.
    """
    try:
        url = URL(endpoint)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationFault(
            f"{URL_VARIABLE} is no http(s) address; captioners of kind endpoint need one, such as "
            "https://host/v1"
        )
    if url.user or url.password or url.query_string or url.fragment:
        raise ConfigurationFault(
            f"{URL_VARIABLE} holds more than scheme, host and path; expected no secret in it: put the key in "
            f"{KEY_VARIABLE}"
        )
    return url / "chat" / "completions"


class Chat:
    """Asks within one event loop.

    Args:
        section: From params.
        url: Of `completions_url`.
        key: Sent as a bearer token where it is not empty, to this address only.
    """

    def __init__(self, section: EndpointCaptioner, url: URL, key: SecretStr) -> None:
        self._section, self._url, self._key = section, url, key
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=section.requests.connections),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            headers={"Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def ask(self, order: Order) -> Reply:
        """Return the answer to an order.

        Raises:
            Failed: with the reason, after the retries that params allow.
            ConfigurationFault: the key, the address or the model is refused.
        """
        requests = self._section.requests
        try:
            async with asyncio.timeout(requests.deadline_seconds):
                for attempt in range(requests.retries + 1):
                    try:
                        return self._read(await self._post(order))
                    except Failed as failed:
                        if not failed.may_pass or attempt == requests.retries:
                            raise
                        asked_seconds = min(failed.retry_after_seconds, requests.max_retry_after_seconds)
                    await asyncio.sleep(max(requests.backoff_seconds * 2**attempt, asked_seconds))
        except TimeoutError:
            raise Failed("timeout") from None
        raise AssertionError("the last attempt returns or raises")

    async def _post(self, order: Order) -> bytes:
        body = {
            "model": self._section.model,
            "messages": messages(order),
            "max_tokens": order.max_new_tokens,
            "temperature": self._section.temperature,
            "seed": order.seed,
        }
        key = self._key.get_secret_value()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            async with self._session.post(
                self._url, json=body, headers=headers, allow_redirects=False
            ) as response:
                self._check(response)
                answer = bytearray()
                async for chunk in response.content.iter_any():
                    answer += chunk
                    if len(answer) > MAX_ANSWER_BYTES:
                        raise Failed("answer_too_large")
                return bytes(answer)
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise Failed("connection_failed") from None

    def _check(self, response: aiohttp.ClientResponse) -> None:
        status, where = response.status, self._url.origin()
        if status == 200:
            return
        if status in (401, 403):
            raise ConfigurationFault(
                f"{where} answers {status}; expected a key that it accepts: set {KEY_VARIABLE}"
            )
        if status in (404, 405) or 300 <= status < 400:
            raise ConfigurationFault(
                f"{where} answers {status} to {self._url.path}; expected chat completions there, and that it "
                f"knows model {self._section.model}: mend {URL_VARIABLE} or recaption.captioners"
            )
        after = response.headers.get("Retry-After", "")
        raise Failed(f"http_{status}", float(after) if re.fullmatch(r"\d{1,12}", after.strip()) else 0.0)

    def _read(self, body: bytes) -> Reply:
        """Return the caption in an answer, or why there is none.

        Raises:
            Failed: it is no chat completion.
        """
        try:
            choice = json.loads(body)["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason")
            text, refusal = message.get("content"), message.get("refusal")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise Failed("bad_answer") from None
        if not isinstance(text, str):
            return Reply("", "refusal" if refusal else "empty")
        key = self._key.get_secret_value()
        if key and key in text:  # a server may send back what it was sent
            return Reply("", "secret")
        if refusal or finish == "content_filter":
            return Reply(text, "refusal")
        return Reply(text, "truncated" if finish == "length" else None)
