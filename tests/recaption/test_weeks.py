"""A list that changes from week to week: which pictures are captioned and embedded, and which texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
import torch

from components.recaption.captioners.choose import captioners_of
from components.recaption.shard import RecaptionShards, _attempts_by_rows, rounds_of
from components.recaption.stage import run
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.layout import Layout
from components.storage.manifest import read_manifest, write_manifest
from components.storage.scores import read_image_embeddings
from components.storage.shards import Pair, shards_of
from tests.pairs import put_in_use, write_pairs
from tests.recaption.chat_server import ChatServer
from tests.recaption.project import with_captioners, written
from tests.recaption.prompted import FAR, far
from tests.recaption.scores.test_scoring import SHARDS, counted, pairs_of
from tests.recaption.scores.test_scoring import layout as layout  # noqa: PLC0414 - a fixture

KINDS = 2  # of captions that FAR writes
Run = Callable[[Layout], None]


@pytest.fixture
def run_week(smoke: Params, server: ChatServer) -> Run:
    """Run the stage with an endpoint as captioner, and with scores."""
    tree = with_captioners(smoke, [FAR]).model_dump()
    tree["recaption"]["scores"] = {"columns": None, "batch_size": 4, "precision": "fp32"}
    params = Params.model_validate(tree)
    return lambda layout: run(params, Environment(work_store=layout.work_store, **far(server)))


def put_week(layout: Layout, **shards: list[Pair]) -> None:
    """Say which pairs are in use; shards that are not there are written."""
    download = layout.artifact("download")
    rows: dict[str, int] = {}
    for shard, count in SHARDS.items():
        rows[f"shards/{shard}.tar"] = count
        put_in_use(download / "shards" / f"{shard}.tar", shards.pop(f"s{shard}"))
    for name, pairs in shards.items():
        tar = f"shards/{name[1:]}.tar"
        rows[tar] = write_pairs(download / tar, pairs)
    write_manifest(download, rows)


def asked(server: ChatServer) -> dict[str, int]:
    """Return the number of requests for each picture."""
    return {sha256(jpeg).hexdigest(): count for jpeg, count in server.hits.items()}


def with_text(pair: Pair, text: str) -> Pair:
    captions: list[dict[str, Any]] = [dict(one) for one in pair.metadata["captions"]]
    captions[0]["text"] = text
    return replace(pair, metadata={**pair.metadata, "captions": captions})


def test_only_new_pictures_are_captioned_and_embedded_and_new_texts_scored(
    layout: Layout, server: ChatServer, run_week: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (pairs_of(shard, count) for shard, count in SHARDS.items())
    run_week(layout)
    server.hits.clear()
    images, texts = counted(monkeypatch, "embed_images"), counted(monkeypatch, "embed_texts")
    new = pairs_of("00002", 1)[0]
    moved = replace(second[0], key="another_key")
    changed = with_text(first[2], "other words than last week")
    week = {
        "s00000": [first[0], changed, *first[3:]],  # one is gone
        "s00001": second[1:],
        "s00002": [moved, new],  # a picture of another shard, under another key
    }
    put_week(layout, **week)
    run_week(layout)
    assert asked(server) == {sha256(new.jpeg).hexdigest(): KINDS}
    assert images == [1]
    columns = Counter(one["column"] for pair in (moved, new) for one in pair.metadata["captions"])
    columns |= {"far_dense": 2, "far_short": 2}
    expected = [count for _, count in sorted(columns.items())]
    assert texts == [1, *expected]  # the changed one; all of the new shard, column by column
    assert {one.key for one in written(layout, "00000")} == {pair.key for pair in week["s00000"]}
    weekly = Layout(layout.work_store)
    scratch = Layout(layout.work_store / "scratch")
    kept = {shard: written(weekly, shard) for shard in ("00000", "00001", "00002")}
    vectors = {shard: embedded(weekly, shard) for shard in kept}
    run_week(scratch)
    for shard, captions in kept.items():
        assert written(layout, shard) == captions
        for key, vector in embedded(layout, shard).items():
            assert torch.allclose(vectors[shard][key], vector, atol=2e-3)
    assert images == [1, 5, 3, 2]


def embedded(layout: Layout, shard: str) -> dict[str, torch.Tensor]:
    path = layout.artifact("recaption") / "image_embeddings" / f"{shard}.safetensors"
    keys, vectors = read_image_embeddings(path)
    return dict(zip(keys, vectors.float(), strict=True))


def test_a_row_that_comes_back_or_changes_its_split_keeps_its_captions(
    layout: Layout, server: ChatServer, run_week: Run
) -> None:
    first, second = (pairs_of(shard, count) for shard, count in SHARDS.items())
    put_week(layout, s00000=first[1:], s00001=second)
    run_week(layout)
    assert len(server.hits) == len(first) + len(second) - 1
    server.hits.clear()
    put_week(layout, s00000=first, s00001=second)
    run_week(layout)
    assert asked(server) == {sha256(first[0].jpeg).hexdigest(): KINDS}
    whole = {shard: written(layout, shard) for shard in SHARDS}
    files = {entry.uri: entry.sha256 for entry in read_manifest(layout.artifact("recaption"))}
    server.hits.clear()
    for away in (first[:1], first[4:]):
        put_week(layout, s00000=away, s00001=second)
        run_week(layout)
    put_week(layout, s00000=first, s00001=second)
    run_week(layout)
    assert not server.hits
    assert {shard: written(layout, shard) for shard in SHARDS} == whole
    assert {entry.uri: entry.sha256 for entry in read_manifest(layout.artifact("recaption"))} == files
    test = replace(first[0], metadata={**first[0].metadata, "split": "test"})
    put_week(layout, s00000=[test, *first[1:]], s00001=second)
    run_week(layout)
    assert not server.hits  # FAR writes nothing for test
    assert {one.column for one in written(layout, "00000") if one.key == test.key}.isdisjoint(
        {"far_short", "far_dense"}
    )


def test_answers_that_an_earlier_version_kept_by_the_rows_of_a_shard_are_taken_over(
    layout: Layout, server: ChatServer, run_week: Run, smoke: Params
) -> None:
    run_week(layout)
    asked_before, before = sum(server.hits.values()), {shard: written(layout, shard) for shard in SHARDS}
    download, work = layout.artifact("download"), layout.work("recaption")
    shards = RecaptionShards(download, shards_of(download), work)
    env = Environment(work_store=layout.work_store, **far(server))
    (captioner,) = captioners_of(with_captioners(smoke, [FAR]), layout.artifact("base_models"), env)
    moved = 0
    for shard in shards:
        for part in captioner.parts():
            if finished := rounds_of(shard, captioner, part).latest():
                by_rows = _attempts_by_rows(shard, captioner, part)
                (finished / "images.parquet").unlink()
                write_manifest(finished)
                moved += 1
                finished.replace(by_rows.store / f"{by_rows.key}.0")
    assert moved == len(SHARDS) * KINDS
    run_week(layout)
    assert sum(server.hits.values()) == asked_before
    assert {shard: written(layout, shard) for shard in SHARDS} == before
