"""Encoder behind an OpenAI-compatible embeddings endpoint."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from components.embed_captions.encoder import Encoded, Progress
from components.errors import ConfigurationError, InfrastructureError
from components.http.client import Connection, Server
from components.http.retry import HttpFailure
from components.running.embedding_headers import other_header
from components.running.signals import run_or_stop
from components.settings.embed_captions import EndpointEncoder
from components.storage.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor

BYTES_A_NUMBER, BYTES_AN_ANSWER = 32, 1 << 16  # of JSON, at most
SHOWN_CHARACTERS = 40  # of a text that may be what a server refuses
KEY_VARIABLE, URL_VARIABLE = "LLM2CLIP_EMBEDDING_ENDPOINT_KEY", "LLM2CLIP_EMBEDDING_ENDPOINT"


class ServerEncoder:
    """See `Encoder`; several requests are under way at a time, and what is answered is put by its index.

    Args:
        section: From params.
        layout: Of the project.
        endpoint: The base URL, up to and with `/v1`.
        key: Empty for a server that wants none.

    Raises:
        ConfigurationError: the URL is missing or no plain address.
    """

    made_by: str | None = None

    def __init__(self, section: EndpointEncoder, layout: Layout, endpoint: str, key: SecretStr) -> None:
        self.name, self._section = section.name, section
        self.about = other_header(layout, section, verify=True)
        self._server = Server(
            endpoint, key, URL_VARIABLE, KEY_VARIABLE, section="embed_captions.others", model=section.model
        )
        self._url = self._server.url("embeddings")

    @property
    def dimension(self) -> int:
        """See `Encoder`."""
        return self._section.dimensions

    def encode(self, texts: list[str], progress: Progress) -> Encoded:
        """See `Encoder`."""
        vectors = self._vectors(texts, self._section.batch_size, progress)
        is_cut = [len(text) > self._section.max_characters for text in texts]
        return Encoded(vectors, [None] * len(texts), is_cut)

    def encode_alone(self, texts: list[str]) -> Tensor:
        """See `Encoder`."""
        return self._vectors(texts, 1, lambda _: None)

    def tokens_of(self, _texts: list[str]) -> None:
        """See `Encoder`."""

    def model_bytes(self) -> int:
        """See `Encoder`."""
        return 0

    def release(self) -> None:
        """See `Encoder`."""

    def _vectors(self, texts: list[str], size: int, progress: Progress) -> Tensor:
        import torch

        vectors = torch.empty(len(texts), self.dimension)
        texts = [text[: self._section.max_characters] for text in texts]
        for first, rows in self._answers(texts, size):
            vectors[first : first + len(rows)] = torch.tensor(rows)
            progress(len(rows))
        return vectors

    def _answers(self, texts: list[str], size: int) -> Iterator[tuple[int, list[list[float]]]]:
        """Yield the vectors of each batch with the number of its first text, in the order they come."""
        starts = iter(range(0, len(texts), size))
        running: dict[asyncio.Task[list[list[float]]], int] = {}
        requests = self._section.requests
        most_bytes = BYTES_AN_ANSWER + BYTES_A_NUMBER * size * self.dimension

        async def some(connection: Connection) -> set[asyncio.Task[list[list[float]]]]:
            while len(running) < requests.connections and (start := next(starts, None)) is not None:
                task = asyncio.create_task(self._ask(connection, texts[start : start + size]))
                running[task] = start
            return (await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))[0] if running else set()

        async def start_up() -> Connection:
            return Connection(self._server, self._url, "embeddings", requests, most_bytes)

        with asyncio.Runner() as runner:
            connection = run_or_stop(runner, start_up())
            try:
                while done := run_or_stop(runner, some(connection)):
                    for task in done:
                        start = running.pop(task)
                        yield start, self._result(task, texts[start : start + size])
            finally:
                for task in running:
                    task.cancel()
                run_or_stop(runner, connection.close())

    async def _ask(self, connection: Connection, texts: list[str]) -> list[list[float]]:
        body: dict[str, Any] = {"model": self._section.model, "input": texts, "encoding_format": "float"}
        if self._section.asks_dimensions:
            body["dimensions"] = self._section.dimensions
        return await connection.ask(body, lambda answer: vectors_in(answer, len(texts), self.dimension))

    def _result(self, task: asyncio.Task[list[list[float]]], texts: list[str]) -> list[list[float]]:
        try:
            return task.result()
        except HttpFailure as failed:
            kind = InfrastructureError if failed.may_pass else ConfigurationError
            longest = max(texts, key=len)  # servers refuse a whole request for one text that is too long
            raise kind(
                f"embed_captions.others {self.name}: {self._url.origin()} gave no embeddings "
                f"({failed.reason}) for {len(texts)} texts, the longest of {len(longest)} characters: "
                f"{longest[:SHOWN_CHARACTERS]!r}; expected them: look there, or lower max_characters, and "
                "run again; finished shards are kept"
            ) from None


def vectors_in(answer: bytes, count: int, dimension: int) -> list[list[float]]:
    """Return the vectors in an answer, in the order of what was asked.

    Args:
        answer: JSON, as the server sent it; its items say by `index` which text they are of.
        count: Texts that were asked for.
        dimension: Numbers that each vector has.

    Raises:
        HttpFailure: vectors are missing, doubled, of another width, or not finite numbers.
    """
    try:
        items = json.loads(answer)["data"]
        found = {item["index"]: item["embedding"] for item in items}
        widths = {len(vector) for vector in found.values()}
        finite = all(math.isfinite(value) for vector in found.values() for value in vector)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise HttpFailure("bad_answer") from None
    if len(items) != count or set(found) != set(range(count)):
        raise HttpFailure(f"{len(found)} of {count} vectors, by index")
    if widths != {dimension}:
        raise HttpFailure(f"vectors of {sorted(widths)} numbers, expected {dimension}: see `dimensions`")
    if not finite:
        raise HttpFailure("vectors with NaN or infinite numbers")
    return [found[place] for place in range(count)]
