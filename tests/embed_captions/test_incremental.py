"""Only new captions are computed, whatever else changed; never across models or params."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from components.embed_captions import embedding
from components.embed_captions.encoder import Encoded, Progress
from components.embed_captions.llms import Llm
from components.embed_captions.stage import run
from components.running.costs import SECONDS, spent_figures
from components.running.progress import worked
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import read_json
from components.storage.embeddings import read_embeddings
from components.storage.layout import Layout
from components.storage.manifest import write_manifest
from components.storage.side_tables import read_captions, write_captions
from tests.embed_captions.test_stage import changed, stored, tuned  # noqa: F401 - a fixture

NEW = "a text that nobody wrote before"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All texts that an LLM is asked to embed."""
    texts: list[str] = []
    encode = Llm.encode

    def record(self: Llm, some: list[str], progress: Progress) -> Encoded:
        texts.extend(some)
        return encode(self, some, progress)

    monkeypatch.setattr(Llm, "encode", record)
    return texts


def change_one(layout: Layout, text: str) -> None:
    path = layout.artifact("recaption") / "captions" / "00001.parquet"
    lines = read_captions(path)
    write_captions(path, [*lines[:-1], replace(lines[-1], text=text)])
    write_manifest(layout.artifact("recaption"))


def test_one_new_caption_is_computed_alone(
    tuned: Layout,  # noqa: F811
    smoke: Params,
    env: Environment,
    asked: list[str],
) -> None:
    params = changed(smoke, llms=["tuned"])
    run(params, env)
    asked.clear()
    change_one(tuned, NEW)
    run(params, env)
    assert asked == [NEW]
    assert worked(tuned.work("embed_captions")) == {"embed_captions by tuned": 1}
    run(params.model_copy(update={"seed": 8}), env)
    assert asked == [NEW]
    of_work = list(env.work_store.rglob("pieces/**/*.safetensors"))
    assert len(of_work) == len(list(tuned.artifact("embed_captions").rglob("*.safetensors")))
    run(params, env)
    grown, metrics = (
        read_embeddings(tuned.artifact("embed_captions") / "tuned", ["dense"], Path(".work")),
        tuned.metrics("embed_captions"),
    )
    figures = read_json(metrics)
    run(params, Environment(work_store=Path("from_scratch")))
    fresh = read_embeddings(tuned.artifact("embed_captions") / "tuned", ["dense"], Path(".work"))
    assert fresh.table == grown.table
    torch.testing.assert_close(
        grown.vectors.whole().float(), fresh.vectors.whole().float(), rtol=2e-3, atol=1e-3
    )
    again = read_json(metrics)
    for name in ("captions", "unique_captions", "cut_captions", "tokens"):
        assert figures["llms"]["tuned"][name] == again["llms"]["tuned"][name]


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_nothing_is_taken_from_a_damaged_piece(
    tuned: Layout,  # noqa: F811
    smoke: Params,
    env: Environment,
    asked: list[str],
    damage: str,
) -> None:
    params = changed(smoke, llms=["tuned"])
    run(params, env)
    for path in list((tuned.work("embed_captions") / "pieces").rglob("*/00001/*/*.safetensors")):
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.unlink()
        path.write_bytes(data if damage == "flip" else data[:-8])
    asked.clear()
    change_one(tuned, NEW)
    run(params, env)
    assert len(asked) > 1 and NEW in asked


def test_other_params_take_nothing(
    tuned: Layout,  # noqa: F811
    smoke: Params,
    env: Environment,
    asked: list[str],
) -> None:
    run(changed(smoke, llms=["tuned"]), env)
    first = list(asked)
    asked.clear()
    run(changed(smoke, llms=["tuned"], precision="bf16"), env)
    assert asked == first


def test_the_seconds_of_a_piece_are_kept_and_grow_by_what_is_new(
    tuned: Layout,  # noqa: F811
    smoke: Params,
    env: Environment,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params, work = changed(smoke, llms=["tuned"]), tuned.work("embed_captions")
    clock, text_seconds, texts = [0.0], [1.0], list[str]()
    monkeypatch.setattr(embedding, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    encode = Llm.encode

    def timed(self: Llm, some: list[str], progress: Progress) -> Encoded:
        clock[0] += text_seconds[0] * len(some)
        texts.extend(some)
        return encode(self, some, progress)

    monkeypatch.setattr(Llm, "encode", timed)

    def seconds() -> float | None:
        run(params, env)
        return spent_figures(work)["spent_seconds"]["tuned"]

    assert seconds() == len(texts) > 0
    spent = len(texts)
    made = stored(tuned)
    assert seconds() == spent  # all was there
    assert not list(tuned.artifact("embed_captions").rglob(SECONDS))

    change_one(tuned, NEW)
    text_seconds[0] = 100.0
    assert seconds() == spent + 100.0

    fresh = Environment(work_store=Path("slower"))
    change_one(tuned, "what stood there")
    run(params, fresh)
    slower = stored(tuned)
    text_seconds[0] = 1.0
    run(params, Environment(work_store=Path("faster")))
    assert stored(tuned) == slower != made


def test_pieces_of_an_earlier_version_have_unknown_seconds(
    tuned: Layout,  # noqa: F811
    smoke: Params,
    env: Environment,
    asked: list[str],
) -> None:
    params, work = changed(smoke, llms=["base", "tuned"]), tuned.work("embed_captions")
    run(params, env)
    asked.clear()
    path = min(work.rglob(f"dense/00001/*/{SECONDS}"))
    path.unlink()
    write_manifest(path.parent)
    run(params, env)
    assert asked == []
    told = spent_figures(work)["spent_seconds"]
    assert sorted(seconds is None for seconds in told.values()) == [False, True]
    change_one(tuned, NEW)
    run(params, env)
    again = spent_figures(work)["spent_seconds"]  # one rests on what was unknown
    assert [seconds is None for seconds in again.values()] == [seconds is None for seconds in told.values()]
