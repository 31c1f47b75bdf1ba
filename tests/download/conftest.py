"""A server on loopback, and params that may ask it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from components.settings.download import Fetch
from components.settings.params import Params
from tests.download.server import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        yield running


@pytest.fixture
def fetch(smoke: Params, server: Server) -> Fetch:
    """Short deadlines, and loopback open at the server's port."""
    return smoke.download.fetch.model_copy(
        update={
            "allowed_ports": [server.port],
            "allowed_private_hosts": ["127.0.0.1"],
            "deadline_seconds": 1.5,
            "max_bytes": 200_000,
            "retries": 2,
            "backoff_seconds": 0.01,
        }
    )


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody waits; how many seconds each would have is told here."""
    told: list[float] = []

    async def wait(seconds: float) -> None:
        told.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", wait)
    return told
