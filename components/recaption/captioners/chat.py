"""One caption from an OpenAI-compatible endpoint."""

from __future__ import annotations

import json

from pydantic import SecretStr
from yarl import URL

from components.http.client import Connection, Failed, Server
from components.recaption.captioners.prompted import Order, Reply, messages
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
