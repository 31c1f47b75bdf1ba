"""A model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import SecretStr

from components.errors import ConfigurationError, InfrastructureError
from components.http.client import Failed
from components.recaption.captioners.chat import Chat, completions_url, server_of
from components.recaption.captioners.prompted import Order, Reply
from components.running.signals import run_or_stop
from components.settings.recaption import EndpointCaptioner


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
        except Failed as failed:
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
