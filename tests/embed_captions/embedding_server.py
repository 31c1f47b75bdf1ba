"""An OpenAI-compatible server on loopback that embeds texts, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from aiohttp import web

from tests.threaded import posted_to

WIDTH = 6
Behaviour = Callable[[dict[str, Any]], Awaitable[web.StreamResponse]]


def vector_of(text: str) -> list[float]:
    """Return what a well-behaved server answers: one vector for one text."""
    digest = sha256(text.encode()).digest()
    return [digest[place] / 64 - 2 for place in range(WIDTH)]


def items_of(texts: list[str]) -> list[dict[str, Any]]:
    return [{"object": "embedding", "index": n, "embedding": vector_of(text)} for n, text in enumerate(texts)]


async def well(body: dict[str, Any]) -> web.StreamResponse:
    """Answer in another order than was asked: what counts is the index."""
    return web.json_response({"object": "list", "data": items_of(body["input"])[::-1]})


def changed(change: Callable[[list[dict[str, Any]]], Any]) -> Behaviour:
    async def answer(body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"data": change(items_of(body["input"]))})

    return answer


def status(code: int, **headers: str) -> Behaviour:
    async def answer(_body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=code, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return answer


def raw(data: bytes) -> Behaviour:
    async def answer(_body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(body=data, content_type="application/json")

    return answer


async def never(_body: dict[str, Any]) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def reset(_body: dict[str, Any]) -> web.StreamResponse:
    raise ConnectionAbortedError


class EmbeddingServer:
    """Answers by a list of behaviours, one by one, the last one for good."""

    def __init__(self) -> None:
        self.behaviours: list[Behaviour] = [well]
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        plan = self.behaviours
        try:
            return await (plan.pop(0) if len(plan) > 1 else plan[0])(body)
        except ConnectionAbortedError:
            assert request.transport
            request.transport.abort()
            raise asyncio.CancelledError from None


@contextmanager
def serving() -> Iterator[EmbeddingServer]:
    """Run a server in a thread of its own, on a free port."""
    server = EmbeddingServer()
    with posted_to("/v1/embeddings", server.handle) as server.port:
        yield server
