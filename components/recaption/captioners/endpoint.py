"""Captions from a model behind an OpenAI-compatible endpoint."""

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
    """Return the server of a captioner; `endpoint` is its base URL, including `/v1`."""
    return Server(
        endpoint, key, URL_VARIABLE, KEY_VARIABLE, section="recaption.captioners", model=section.model
    )


def completions_url(server: Server) -> URL:
    """Return the URL of chat completions; see `Server.url`."""
    return server.url("chat", "completions")


class Chat:
    """Send chat requests within one event loop.

    Args:
        section: Section of the captioner, from params.
        server: Server from `server_of`.
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
        """Return the reply to an order; see `Connection.ask`."""
        body = {
            "model": self._section.model,
            "messages": messages(order),
            "max_tokens": order.max_new_tokens,
            "temperature": self._section.temperature,
            "seed": order.seed,
        }
        return await self._connection.ask(body, self._read)

    def _read(self, body: bytes) -> Reply:
        """Return the caption in a response body, or the reason why there is none.

        Raises:
            HttpFailure: the body is no chat completion.
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
        if key and key in text:  # a server may echo what it was sent
            return Reply("", "secret")
        if refusal or finish == "content_filter":
            return Reply(text, "refusal")
        return Reply(text, "truncated" if finish == "length" else None)


class EndpointWriter:
    """Request captions, as many at a time as params allow.

    A missing caption is rejected with a reason and may be requested again (`shard.may_pass`). After too many
    failures in a row the server is down or does not understand the requests, and the stage stops; finished
    shards are kept.

    Args:
        section: Section of the captioner, from params.
        endpoint: The base URL, including `/v1`.
        key: API key; empty for a server without one.

    Raises:
        ConfigurationError: the URL is missing or no plain address.
    """

    made_by: str | None = None

    def __init__(self, section: EndpointCaptioner, endpoint: str, key: SecretStr) -> None:
        self._section, self._server = section, server_of(section, endpoint, key)
        self._url = completions_url(self._server)
        self._failures_in_a_row = 0

    def identity(self) -> dict[str, Any]:
        """See `Writer`; empty, as params mark another model of the same name by `revision`."""
        return {}

    def replies(self, orders: Sequence[Order]) -> Iterator[tuple[int, Reply]]:
        """See `Writer`."""
        pending = iter(enumerate(orders))
        running: dict[asyncio.Task[Reply], int] = {}

        async def next_done(chat: Chat) -> set[asyncio.Task[Reply]]:
            while len(running) < self._section.requests.connections and (
                numbered_order := next(pending, None)
            ):
                index, order = numbered_order
                running[asyncio.create_task(chat.ask(order))] = index
            return (await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))[0] if running else set()

        async def start() -> Chat:
            return Chat(self._section, self._server)

        with asyncio.Runner() as runner:
            chat = run_or_stop(runner, start())
            try:
                while done := run_or_stop(runner, next_done(chat)):
                    for task in done:
                        yield running.pop(task), self._reply(task)
            finally:
                for task in running:
                    task.cancel()
                run_or_stop(runner, chat.close())

    def _reply(self, task: asyncio.Task[Reply]) -> Reply:
        try:
            reply = task.result()
        except HttpFailure as failure:
            self._failures_in_a_row += 1
            if self._failures_in_a_row < self._section.requests.max_failures_in_a_row:
                return Reply("", failure.reason)
            kind = InfrastructureError if failure.may_pass else ConfigurationError
            raise kind(
                f"recaption.captioners {self._section.name}: {self._failures_in_a_row} requests in a row "
                f"gave no caption, the last by {failure.reason}; expected answers from {self._url.origin()}; "
                "check that server, then rerun; finished shards are kept"
            ) from None
        self._failures_in_a_row = 0
        return reply
