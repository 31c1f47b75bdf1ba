"""A model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import SecretStr
from yarl import URL

from components.errors import ConfigurationError, InfrastructureError
from components.http.client import Connection, Server
from components.http.retry import HttpFailure
from components.recaption.captioners.prompted import Order, Reply, messages
from components.running.signals import run_or_stop
from components.settings.recaption import EndpointCaptioner

MAX_ANSWER_BYTES = 1 << 20
KEY_VARIABLE, URL_VARIABLE = "LLM2CLIP_CAPTION_ENDPOINT_KEY", "LLM2CLIP_CAPTION_ENDPOINT"


def server_of(section: EndpointCaptioner, endpoint: str, key: SecretStr) -> Server:
    """Return the server of a captioner; `endpoint` is its base URL, up to and with `/v1`."""
    return Server(
        endpoint, key, URL_VARIABLE, KEY_VARIABLE, section="recaption.captioners", model=section.model
    )


def completions_url(server: Server) -> URL:
    """Return where chat completions are asked for; see `Server.url`."""
    return server.url("chat", "completions")


class Chat:
    """Asks within one event loop.

    Args:
        section: From params.
        server: Of `server_of`.
    """

    def __init__(self, section: EndpointCaptioner, server: Server) -> None:
        self._section, self._key = section, server.key
        self._connection = Connection(
            server, completions_url(server), "chat completions", section.requests, MAX_ANSWER_BYTES
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._connection.close()

    async def ask(self, order: Order) -> Reply:
        """Return the answer to an order; see `Connection.ask`."""
        body = {
            "model": self._section.model,
            "messages": messages(order),
            "max_tokens": order.max_new_tokens,
            "temperature": self._section.temperature,
            "seed": order.seed,
        }
        return await self._connection.ask(body, self._read)

    def _read(self, body: bytes) -> Reply:
        """Return the caption in an answer, or why there is none.

        Raises:
            HttpFailure: it is no chat completion.
        """
        try:
            choice = json.loads(body)["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason")
            text, refusal = message.get("content"), message.get("refusal")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise HttpFailure("bad_answer") from None
        if not isinstance(text, str):
            return Reply("", "refusal" if refusal else "empty")
        key = self._key.get_secret_value()
        if key and key in text:  # a server may send back what it was sent
            return Reply("", "secret")
        if refusal or finish == "content_filter":
            return Reply(text, "refusal")
        return Reply(text, "truncated" if finish == "length" else None)


class EndpointWriter:
    """Asks so many captions at a time as params allow.

    A caption that does not come is rejected by reason, and may be asked for again (`passing`). When none
    comes for a while the server is down, or misunderstands us, and the stage stops: finished pieces stay.

    Args:
        section: From params.
        endpoint: The base URL, up to and with `/v1`.
        key: Empty for a server that wants none.

    Raises:
        ConfigurationError: the URL is missing or no plain address.
    """

    made_by: str | None = None

    def __init__(self, section: EndpointCaptioner, endpoint: str, key: SecretStr) -> None:
        self._section, self._server = section, server_of(section, endpoint, key)
        self._url = completions_url(self._server)
        self._failures_in_a_row = 0

    def identity(self) -> dict[str, Any]:
        """See `Writer`; not the address: params say by `revision` when another model answers to the name."""
        return {}

    def replies(self, orders: Sequence[Order]) -> Iterator[tuple[int, Reply]]:
        """See `Writer`."""
        left = iter(enumerate(orders))
        running: dict[asyncio.Task[Reply], int] = {}

        async def some(chat: Chat) -> set[asyncio.Task[Reply]]:
            while len(running) < self._section.requests.connections and (turn := next(left, None)):
                running[asyncio.create_task(chat.ask(turn[1]))] = turn[0]
            return (await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))[0] if running else set()

        async def start() -> Chat:
            return Chat(self._section, self._server)

        with asyncio.Runner() as runner:
            chat = run_or_stop(runner, start())
            try:
                while done := run_or_stop(runner, some(chat)):
                    for task in done:
                        yield running.pop(task), self._reply(task)
            finally:
                for task in running:
                    task.cancel()
                run_or_stop(runner, chat.close())

    def _reply(self, task: asyncio.Task[Reply]) -> Reply:
        try:
            reply = task.result()
        except HttpFailure as failed:
            self._failures_in_a_row += 1
            if self._failures_in_a_row < self._section.requests.max_failures_in_a_row:
                return Reply("", failed.reason)
            kind = InfrastructureError if failed.may_pass else ConfigurationError
            raise kind(
                f"recaption.captioners {self._section.name}: {self._failures_in_a_row} requests in a row "
                f"gave no caption, the last by {failed.reason}; expected answers from {self._url.origin()}: "
                "look there, then run again; finished shards are kept"
            ) from None
        self._failures_in_a_row = 0
        return reply
