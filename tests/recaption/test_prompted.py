"""The stage with models that are prompted: one run here by transformers, one behind an endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from components.errors import ConfigurationError, DataError, Stopped
from components.recaption.captioners.prompted import Order, Reply
from components.recaption.captioners.vision_language import TransformersWriter
from components.settings.params import Params
from components.storage.layout import Layout
from components.storage.manifest import folder_key
from tests.recaption.chat_server import ChatServer
from tests.recaption.project import (
    COLUMNS,
    SHARDS,
    pairs_of,
    run_with,
)
from tests.recaption.prompted import ASKED, FAR, NEAR, REQUESTS, far, texts


def test_one_column_a_kind_and_every_row_accounted_for(smoke: Params, llava: Layout) -> None:
    metrics = run_with(smoke, llava, NEAR, COLUMNS)
    for kind in ("short", "dense"):
        own = metrics["columns"][f"near_{kind}"]
        assert own["rows_in"] == ASKED == own["rows_out"] + sum(own["rejected"].values())
        good, bad = (texts(llava, f"near_{kind}", good=good) for good in (True, False))
        assert len(good) == own["rows_out"] and not set(good) & set(bad)
        keys = [pair.key for shard in SHARDS for pair in pairs_of(shard, SHARDS[shard])]
        assert set(good) | set(bad) == set(keys) - {"k00001x1"}  # the one of test
    assert metrics["columns"]["again"]["rows_in"] == 10
    assert metrics["rows_in"] == sum(own["rows_in"] for own in metrics["columns"].values())
    assert metrics["captions"]["near_short"] == metrics["columns"]["near_short"]["rows_out"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_neither_batches_nor_another_run_change_a_caption(
    smoke: Params, llava: Layout, temperature: float
) -> None:
    run_with(smoke, llava, NEAR | {"temperature": temperature})
    first = folder_key(llava.artifact("recaption"))
    run_with(
        smoke, Layout(llava.work_store / "again"), NEAR | {"temperature": temperature, "batch_tokens": 1}
    )
    assert folder_key(llava.artifact("recaption")) == first
    run_with(smoke, llava, NEAR | {"temperature": temperature}, seed=8)
    assert (folder_key(llava.artifact("recaption")) == first) == (temperature == 0.0)


def test_another_captioner_has_nothing_written_again(
    smoke: Params, llava: Layout, server: ChatServer, orders: list[Order]
) -> None:
    run_with(smoke, llava, NEAR)
    assert len(orders) == ASKED * 2
    before = texts(llava, "near_dense"), texts(llava, "near_short")
    metrics = run_with(smoke, llava, NEAR, FAR, environment=far(server))
    assert len(orders) == ASKED * 2
    assert sum(server.hits.values()) == ASKED * 2
    assert before == (texts(llava, "near_dense"), texts(llava, "near_short"))
    assert metrics["columns"]["far_dense"]["rows_out"] == ASKED
    run_with(smoke, llava, NEAR, FAR, environment=far(server))
    assert sum(server.hits.values()) == ASKED * 2


def test_other_gates_judge_anew_and_write_nothing(smoke: Params, llava: Layout, orders: list[Order]) -> None:
    before = run_with(smoke, llava, NEAR)
    longest = max(len(text) for text in texts(llava, "near_dense").values())
    after = run_with(smoke, llava, NEAR, max_characters=longest - 1)
    assert "too_long" not in before["rejected"]
    assert after["columns"]["near_dense"]["rejected"]["too_long"] >= 1
    assert after["rows_in"] == before["rows_in"]
    assert len(orders) == ASKED * 2


def test_how_it_is_asked_changes_no_caption_and_asks_nobody_again(
    smoke: Params, layout: Layout, server: ChatServer
) -> None:
    run_with(smoke, layout, FAR, environment=far(server))
    first = folder_key(layout.artifact("recaption"))
    other = FAR | {"requests": REQUESTS | {"connections": 1, "retries": 0}}
    run_with(smoke, layout, other, environment={"caption_endpoint": "https://elsewhere/v1"})
    assert folder_key(layout.artifact("recaption")) == first
    assert sum(server.hits.values()) == ASKED * 2
    run_with(smoke, Layout(layout.work_store / "fresh"), other, environment=far(server))
    assert folder_key(layout.artifact("recaption")) == first


def test_stopped_while_it_writes_it_goes_on_to_equal_files(
    smoke: Params, llava: Layout, monkeypatch: pytest.MonkeyPatch, orders: list[Order]
) -> None:
    run_with(smoke, Layout(llava.work_store / "undisturbed"), NEAR)
    undisturbed = folder_key(llava.artifact("recaption"))
    orders.clear()
    counted = TransformersWriter.replies

    def stopping(self: TransformersWriter, some: Sequence[Order]) -> Iterator[tuple[int, Reply]]:
        for number, reply in enumerate(counted(self, some)):
            if len(some) == 2 and number == 1:  # two rows of validation in the second shard
                raise Stopped
            yield reply

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(TransformersWriter, "replies", stopping)
        run_with(smoke, llava, NEAR)
    before = len(orders)
    run_with(smoke, llava, NEAR)
    assert len(orders) == before + 2 + 3  # those two again, and the shard's dense captions
    assert folder_key(llava.artifact("recaption")) == undisturbed


def test_an_endpoint_needs_its_address(smoke: Params, layout: Layout) -> None:
    with pytest.raises(ConfigurationError, match="LLM2CLIP_CAPTION_ENDPOINT is no http"):
        run_with(smoke, layout, FAR)


def test_a_language_that_no_gate_knows_is_refused(smoke: Params, layout: Layout, server: ChatServer) -> None:
    with pytest.raises(ConfigurationError, match="far writes language am, .*expected one of .*en"):
        run_with(smoke, layout, FAR | {"language": "am"}, environment=far(server))


def test_a_model_that_base_models_did_not_bring_is_named(smoke: Params, llava: Layout) -> None:
    with pytest.raises(ConfigurationError, match="names model blip, .*does not have; expected one of llava"):
        run_with(smoke, llava, NEAR | {"model": "blip"})


def test_a_damaged_model_is_refused(smoke: Params, llava: Layout) -> None:
    path = llava.artifact("base_models") / "vision_language" / "llava" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8] + b"\0" * 8)
    with pytest.raises(DataError, match="damaged"):
        run_with(smoke, llava, NEAR)


def test_another_kind_or_split_has_nothing_written_again(
    smoke: Params, layout: Layout, server: ChatServer
) -> None:
    short = FAR | {
        "prompts": {"short": FAR["prompts"]["short"]}, "max_new_tokens": {"short": 12}, "splits": ["train"]
    }  # fmt: skip
    asked = 0
    for captioner, more in (
        (short, 6),
        (short | {"splits": ["train", "validation"]}, 3),
        (FAR, ASKED),
        (FAR | {"max_new_tokens": {"short": 13, "dense": 24}}, ASKED),
        (FAR | {"splits": ["test", "validation", "train"]}, 2),
    ):
        run_with(smoke, layout, captioner, environment=far(server))
        asked += more
        assert sum(server.hits.values()) == asked


def test_another_revision_is_another_model(smoke: Params, layout: Layout, server: ChatServer) -> None:
    run_with(smoke, layout, FAR, environment=far(server))
    run_with(smoke, layout, FAR | {"revision": "2"}, environment=far(server))
    assert sum(server.hits.values()) == ASKED * 4
