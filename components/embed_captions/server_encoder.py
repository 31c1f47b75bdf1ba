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
SHOWN_CHARACTERS = 40  # of a text, in a message, that a server may have refused
KEY_VARIABLE, URL_VARIABLE = "LLM2CLIP_EMBEDDING_ENDPOINT_KEY", "LLM2CLIP_EMBEDDING_ENDPOINT"


class ServerEncoder:
    """Encoder that sends several requests at a time to a server; see `Encoder`. Answers are placed by index.

    Args:
        section: From params.
        layout: Of the project.
        endpoint: The base URL, up to and with `/v1`.
        key: The server's key; empty for a server that needs none.

    Raises:
        ConfigurationError: the URL is missing or not a plain address.
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
        for first, rows in self._batches(texts, size):
            vectors[first : first + len(rows)] = torch.tensor(rows)
            progress(len(rows))
        return vectors

    def _batches(self, texts: list[str], size: int) -> Iterator[tuple[int, list[list[float]]]]:
        """Yield the index of each batch's first text with its vectors, in order of arrival."""
        starts = iter(range(0, len(texts), size))
        running: dict[asyncio.Task[list[list[float]]], int] = {}
        requests = self._section.requests
        max_bytes = BYTES_AN_ANSWER + BYTES_A_NUMBER * size * self.dimension

        async def next_done(connection: Connection) -> set[asyncio.Task[list[list[float]]]]:
            while len(running) < requests.connections and (start := next(starts, None)) is not None:
                task = asyncio.create_task(self._ask(connection, texts[start : start + size]))
                running[task] = start
            return (await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))[0] if running else set()

        async def start_up() -> Connection:
            return Connection(self._server, self._url, "embeddings", requests, max_bytes)

        with asyncio.Runner() as runner:
            connection = run_or_stop(runner, start_up())
            try:
                while done := run_or_stop(runner, next_done(connection)):
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
        except HttpFailure as failure:
            error_class = InfrastructureError if failure.may_pass else ConfigurationError
            longest = max(texts, key=len)  # one text that is too long makes servers refuse the whole request
            raise error_class(
                f"embed_captions.others {self.name}: {self._url.origin()} gave no embeddings "
                f"({failure.reason}) for {len(texts)} texts, the longest of {len(longest)} characters: "
                f"{longest[:SHOWN_CHARACTERS]!r}; expected one each: check the server, or lower "
                "max_characters, and rerun; finished shards are kept"
            ) from None


def vectors_in(answer: bytes, count: int, dimension: int) -> list[list[float]]:
    """Return the vectors of an answer, in the order of the texts of the request.

    Args:
        answer: JSON from the server; the `index` of an item says which text it belongs to.
        count: Number of texts in the request.
        dimension: Length of each vector.

    Raises:
        HttpFailure: vectors are missing, duplicated, of another length, or not finite.
    """
    try:
        items = json.loads(answer)["data"]
        by_index = {item["index"]: item["embedding"] for item in items}
        widths = {len(vector) for vector in by_index.values()}
        finite = all(math.isfinite(value) for vector in by_index.values() for value in vector)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise HttpFailure("bad_answer") from None
    if len(items) != count or set(by_index) != set(range(count)):
        raise HttpFailure(f"{len(by_index)} of {count} vectors, by index")
    if widths != {dimension}:
        raise HttpFailure(f"vectors of {sorted(widths)} numbers, expected {dimension}: see `dimensions`")
    if not finite:
        raise HttpFailure("vectors with NaN or infinite numbers")
    return [by_index[index] for index in range(count)]
