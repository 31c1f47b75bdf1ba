"""An OpenAI-compatible server on loopback that captions images, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from aiohttp import web

from tests.threaded import posted_to

Behaviour = Callable[["ChatServer", dict[str, Any]], Awaitable[web.StreamResponse]]


class ChatServer:
    """Answers each image by its own list of behaviours, one by one, the last one for good.

    Args:
        usual: What all other images get.
    """

    def __init__(self, usual: Behaviour | None = None) -> None:
        self.usual = usual or well
        self.behaviours: dict[bytes, list[Behaviour]] = {}
        self.hits = Counter[bytes]()
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.running = self.most_running = self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        jpeg = image_of(body)
        self.hits[jpeg] += 1
        plan = self.behaviours.get(jpeg, [self.usual])
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await (plan.pop(0) if len(plan) > 1 else plan[0])(self, body)
        except ConnectionAbortedError:
            assert request.transport
            request.transport.abort()
            raise asyncio.CancelledError from None
        finally:
            self.running -= 1


def image_of(body: dict[str, Any]) -> bytes:
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return base64.b64decode(data, validate=True)


def caption_of(body: dict[str, Any]) -> str:
    """Return what a well-behaved server writes: one text for one image, prompt and seed."""
    prompt = body["messages"][0]["content"][1]["text"]
    digest = sha256(f"{prompt}{body['seed']}".encode() + image_of(body)).hexdigest()[:12]
    return f"The picture with the name {digest} is on the wall."


def completion(text: Any, finish: str | None = "stop", **message: Any) -> web.Response:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": finish,
    }
    return web.json_response({"id": "x", "object": "chat.completion", "choices": [choice]})


async def well(_server: ChatServer, body: dict[str, Any]) -> web.StreamResponse:
    return completion(caption_of(body))


def says(text: Any, finish: str | None = "stop", **message: Any) -> Behaviour:
    async def answer(_server: ChatServer, _body: dict[str, Any]) -> web.StreamResponse:
        return completion(text, finish, **message)

    return answer


def status(code: int, **headers: str) -> Behaviour:
    async def answer(_server: ChatServer, _body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(
            status=code, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    return answer


def raw(data: bytes) -> Behaviour:
    async def answer(_server: ChatServer, _body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(body=data, content_type="application/json")

    return answer


async def never(_server: ChatServer, _body: dict[str, Any]) -> web.StreamResponse:
    """Keep the client waiting until it has had enough."""
    await asyncio.Event().wait()
    raise AssertionError


async def reset(server: ChatServer, _body: dict[str, Any]) -> web.StreamResponse:
    """Cut the connection without an answer."""
    raise ConnectionAbortedError


def together(count: int) -> Behaviour:
    """Answer nobody before so many ask at once."""
    everyone = asyncio.Barrier(count)

    async def answer(_server: ChatServer, body: dict[str, Any]) -> web.StreamResponse:
        await everyone.wait()
        return completion(caption_of(body))

    return answer


@contextmanager
def serving(server: ChatServer) -> Iterator[ChatServer]:
    """Run a server in a thread of its own, on a free port."""
    with posted_to("/v1/chat/completions", server.handle) as server.port:
        yield server
