"""Captions that did not come: what is asked for again, by whom, and what becomes of all others."""

from __future__ import annotations

from typing import Any

import pytest

from components.errors import DataError, InfrastructureError
from components.settings.params import Params
from components.storage.layout import Layout
from components.storage.manifest import folder_key
from tests.recaption.chat_server import Behaviour, ChatServer, raw, reset, status, well
from tests.recaption.project import SHARDS, pairs_of, run_with
from tests.recaption.prompted import ASKED, FAR, REQUESTS, far, texts

SHORT: dict[str, Any] = FAR | {
    "prompts": {"short": FAR["prompts"]["short"]},
    "max_new_tokens": {"short": 12},
    "requests": REQUESTS | {"retries": 0, "max_failures_in_a_row": 50},
}
FAILING = 4


def ask_again(rounds: int) -> dict[str, Any]:
    return SHORT | {"requests": SHORT["requests"] | {"retry_rounds": rounds}}


def break_every_second(server: ChatServer, behaviour: Behaviour) -> None:
    pairs = [pair for shard in SHARDS for pair in pairs_of(shard, SHARDS[shard])]
    asked = [pair.jpeg for pair in pairs if pair.metadata["split"] != "test"]
    server.behaviours = {jpeg: [behaviour] for jpeg in asked[1::2]}
    assert len(server.behaviours) == FAILING


def undisturbed(smoke: Params, layout: Layout, server: ChatServer) -> str:
    server.behaviours = {}
    run_with(smoke, Layout(layout.work_store / "undisturbed"), SHORT, environment=far(server))
    server.hits.clear()
    return folder_key(layout.artifact("recaption"))


@pytest.mark.parametrize("trouble", [status(503), status(429), reset])
def test_trouble_over_the_limit_is_asked_about_again_and_nothing_else(
    smoke: Params, layout: Layout, server: ChatServer, trouble: Behaviour
) -> None:
    expected = undisturbed(smoke, layout, server)
    break_every_second(server, trouble)
    for asked in (ASKED, ASKED + FAILING):
        with pytest.raises(InfrastructureError, match="endpoint failed: 4 of 9 captions did not come"):
            run_with(smoke, layout, SHORT, share=0.1, environment=far(server))
        assert sum(server.hits.values()) == asked
    server.behaviours = {}
    metrics = run_with(smoke, layout, SHORT, share=0.1, environment=far(server))
    assert sum(server.hits.values()) == ASKED + FAILING * 2
    assert metrics["rejected"] == {}
    assert folder_key(layout.artifact("recaption")) == expected
    assert not list(layout.work("recaption").rglob("*.aside"))


def test_some_that_came_meanwhile_are_not_lost(smoke: Params, layout: Layout, server: ChatServer) -> None:
    break_every_second(server, status(503))
    for mended in (0, 1):
        with pytest.raises(InfrastructureError, match=f"{FAILING - mended} of 9"):
            run_with(smoke, layout, ask_again(mended), share=0.0, environment=far(server))
        jpeg = next(iter(server.behaviours))
        server.behaviours.pop(jpeg)
    asked = sum(server.hits.values())
    with pytest.raises(InfrastructureError, match="2 of 9"):
        run_with(smoke, layout, ask_again(1), share=0.0, environment=far(server))
    asked += 3 + 2  # round 0 for what had not come, round 1 for what still has not
    assert sum(server.hits.values()) == asked
    server.behaviours = {}
    run_with(smoke, layout, ask_again(1), share=0.0, environment=far(server))
    assert sum(server.hits.values()) == asked + 2


def test_below_the_limit_it_stays_until_another_round_is_asked_for(
    smoke: Params, layout: Layout, server: ChatServer
) -> None:
    expected = undisturbed(smoke, layout, server)
    break_every_second(server, status(503))
    metrics = run_with(smoke, layout, SHORT, share=0.5, environment=far(server))
    assert metrics["rejected"] == {"http_503": FAILING}
    lacking = folder_key(layout.artifact("recaption"))
    server.behaviours = {}
    run_with(smoke, layout, SHORT, share=0.5, environment=far(server))
    assert sum(server.hits.values()) == ASKED
    assert folder_key(layout.artifact("recaption")) == lacking
    run_with(smoke, layout, ask_again(1), share=0.5, environment=far(server))
    assert sum(server.hits.values()) == ASKED + FAILING
    assert folder_key(layout.artifact("recaption")) == expected
    run_with(smoke, layout, ask_again(5), share=0.5, environment=far(server))
    assert sum(server.hits.values()) == ASKED + FAILING  # nothing is lacking


@pytest.mark.parametrize("fault", [raw(b"{"), status(400)])
def test_what_does_not_pass_is_a_matter_of_the_data(
    smoke: Params, layout: Layout, server: ChatServer, fault: Behaviour
) -> None:
    break_every_second(server, fault)
    for _ in range(2):
        with pytest.raises(DataError, match="4 of 9 rows rejected"):
            run_with(smoke, layout, SHORT, share=0.1, environment=far(server))
    assert sum(server.hits.values()) == ASKED


def test_captions_of_a_kind_that_came_are_not_asked_for_again(
    smoke: Params, layout: Layout, server: ChatServer
) -> None:
    first = next(iter(pairs_of("00000", SHARDS["00000"])))
    server.behaviours[first.jpeg] = [well, status(503)]  # its short caption comes, its dense one does not
    with pytest.raises(InfrastructureError, match="1 of 18"):
        run_with(smoke, layout, FAR, share=0.0, environment=far(server))
    server.behaviours, asked = {}, sum(server.hits.values())
    run_with(smoke, layout, FAR, share=0.0, environment=far(server))
    assert sum(server.hits.values()) == asked + 1
    assert len(texts(layout, "far_dense")) == ASKED
