"""Several processes, each with a GPU: the same bytes as one, and nothing written twice.

Here each has the CPU, for the device only says where a model runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from components.errors import ConfigurationError
from components.recaption import stage
from components.recaption.captioners.vision_language import TransformersWriter
from components.recaption.gpus import fill, gpus_of, shares_of
from components.recaption.stage import run
from components.running.gpus import gpu_of
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.layout import Layout
from components.storage.manifest import Entry
from components.storage.shards import shards_of
from tests.recaption.project import COLUMNS, TINY, with_captioners
from tests.recaption.prompted import FAR, NEAR, bring_llava
from tests.recaption.scores.test_scoring import layout  # noqa: F401 - a fixture

DRAWN = {**NEAR, "temperature": 1.0}
PARTS = 4  # of the captioner NEAR: two kinds, two splits


@pytest.fixture
def made(layout: Layout) -> Layout:  # noqa: F811 - the fixture
    bring_llava(layout)
    return layout


@pytest.fixture
def params(smoke: Params) -> Params:
    found = with_captioners(smoke, [DRAWN, COLUMNS])
    scores = {"columns": None, "batch_size": 4, "precision": "fp32"}
    tree = found.model_dump()
    tree["recaption"]["scores"] = scores
    return Params.model_validate(tree)


def contents(made: Layout) -> dict[str, bytes]:
    folder = made.artifact("recaption")
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def forbid(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> None:
    def written_again(*_arguments: Any) -> None:
        raise AssertionError(f"{name} is asked again")

    monkeypatch.setattr(kind, name, written_again)


@pytest.mark.integration
def test_many_processes_leave_what_the_stage_would_write_itself(
    params: Params, made: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Environment(work_store=made.work_store / "alone", processes=1)
    run(params, alone)
    expected = contents(made)
    env = Environment(work_store=made.work_store, processes=2)
    fill(params, env, shards_of(made.artifact("download")), PARTS, 2)
    forbid(monkeypatch, TransformersWriter, "replies")
    monkeypatch.setattr("components.recaption.scores.base_clip.BaseClip.embed_images", None)
    run(params, env)
    assert contents(made) == expected
    assert not list(made.work("recaption").rglob(".*.part"))


@pytest.mark.integration
def test_the_stage_uses_all_gpus(params: Params, made: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def filled(params: Params, env: Environment, entries: Sequence[Entry], parts: int, gpus: int) -> None:
        asked.append((parts, gpus))
        fill(params, env, entries, parts, gpus)

    monkeypatch.setattr(stage, "gpus_of", lambda *_arguments: 2)
    monkeypatch.setattr(stage, "fill", filled)
    forbid(monkeypatch, TransformersWriter, "replies")
    run(params, Environment(work_store=made.work_store, processes=2))
    assert asked == [(PARTS, 2)]


def test_gpus_are_counted_where_there_is_work_for_them(
    smoke: Params, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    cuda = Environment(device="cuda")
    assert gpus_of(params, Environment(), 100) == 0
    assert gpus_of(params, cuda, 100) == 8
    assert gpus_of(params, cuda, 3) == 3
    assert gpus_of(with_captioners(smoke, [TINY | {"batch_size": 2}]), cuda, 9) == 8
    assert gpus_of(with_captioners(smoke, [COLUMNS, FAR]), cuda, 9) == 0


def test_shards_of_equal_bytes_are_one_process_s_work() -> None:
    entries = [Entry(f"shards/{place}.tar", 10, sha256, 5) for place, sha256 in enumerate("abcacda")]
    assert [[entry.uri[7] for entry in mine] for mine in shares_of(entries, 2)] == [list("03624"), list("15")]
    assert shares_of(entries[3:5], 3) == [[entries[3]], [entries[4]], []]


def test_a_gpu_is_one_of_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu_of(place) for place in range(2)] == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc")
    assert [gpu_of(place) for place in range(2)] == ["5", "GPU-abc"]


def test_a_column_of_two_writers_is_told_before_a_model_writes(smoke: Params, made: Layout) -> None:
    twice = {**COLUMNS, "columns": [{**COLUMNS["columns"][0], "column": "dense"}]}
    env = Environment(work_store=made.work_store, processes=2)
    with pytest.raises(ConfigurationError, match="mine writes column dense of train, which is there"):
        fill(with_captioners(smoke, [NEAR, twice]), env, shards_of(made.artifact("download")), PARTS, 2)
    assert not list((made.work("recaption") / "pieces" / "near").glob("*"))
