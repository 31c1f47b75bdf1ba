"""Several processes leave what one would; what is told before the start; a disk that is too small."""

from __future__ import annotations

import logging
import platform
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.embed_captions import embed_job, survey
from components.embed_captions.embed_job import parts_of
from components.embed_captions.stage import run
from components.embed_captions.survey import Missing, check_room
from components.errors import InfrastructureError
from components.running.progress import worked
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import read_json, write_json
from components.storage.layout import Layout
from tests.embed_captions.test_stage import changed, no_llm, stored, tuned  # noqa: F401 - a fixture

MANY = 10**6


class Here:
    name: str = "tuned"
    made_by: str | None = "llm"

    def model_bytes(self) -> int:
        return 10**9


def missing(shards: int, texts: int) -> Missing:
    return Missing(captions=texts, texts=texts, new=texts, shards=[None] * shards)


@pytest.mark.integration
def test_processes_leave_what_one_would(
    tuned: Layout,  # noqa: F811
    smoke: Params,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.set_num_threads(1)
    run(smoke, Environment(work_store=Path("alone"), threads=1))
    expected = stored(tuned)
    shutil.rmtree(tuned.artifact("embed_captions"))
    monkeypatch.setattr(embed_job, "TEXTS_A_PROCESS", 1)
    no_llm(monkeypatch)  # in this process
    run(smoke, Environment(threads=1, processes=2))
    assert stored(tuned) == expected
    assert not list(tuned.work("embed_captions").rglob(".*.part"))


def test_processes_are_as_many_as_work_cores_and_gpus_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    encoders: list[Any] = [Here()]
    assert parts_of(Environment(processes=8), encoders, [missing(100, 100)]) == 1
    assert parts_of(Environment(processes=8), encoders, [missing(3, MANY)]) == 3
    assert parts_of(Environment(processes=8), encoders, [missing(100, MANY)]) == 8
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert parts_of(Environment(device="cuda", processes=8), encoders, [missing(100, MANY)]) == 4
    monkeypatch.setattr(embed_job, "usable_cores", lambda: 64)
    monkeypatch.setattr("os.sysconf", lambda name: 1 if name == "SC_PAGE_SIZE" else 10 * 10**9)
    assert parts_of(Environment(), encoders, [missing(100, MANY)]) == 3  # half of 10 GB, 1.5 GB each
    Here.made_by = None
    assert parts_of(Environment(processes=8), encoders, [missing(100, MANY)]) == 1
    Here.made_by = "llm"


def test_what_will_be_done_is_told_before_it_is(
    tuned: Layout,  # noqa: F811
    smoke: Params,
    env: Environment,
    caplog: pytest.LogCaptureFixture,
) -> None:
    params = changed(smoke, llms=["tuned"])
    with caplog.at_level(logging.INFO, "llm2clip"):
        run(params, env)
    first, *later = [line for line in caplog.messages if line.startswith("embed_captions")]
    words = first.replace(",", "").split()
    assert words[:2] == ["embed_captions", "tuned:"]
    files = list((tuned.artifact("embed_captions") / "tuned").rglob("*.safetensors"))
    figures = sum(path.stat().st_size for path in files)
    assert float(words[words.index("MB") - 1]) == pytest.approx(figures / 1e6, abs=0.1)
    assert "about" in words and "tokens" in words
    assert "embed_captions: the remaining time is shown from the first batch on" in caplog.messages
    assert all("to embed" not in line for line in later)
    caplog.clear()
    run(params, env)
    assert not [line for line in caplog.messages if "to embed" in line or "minutes" in line]


def test_minutes_follow_from_an_earlier_run(
    tuned: Layout,  # noqa: F811
    smoke: Params,
    env: Environment,
    caplog: pytest.LogCaptureFixture,
) -> None:
    params = changed(smoke, llms=["tuned"])
    worked = {"embed_captions by tuned": 20_000, "embed_captions by base": 1}
    costs = {"seconds": 4e5, "cpu_seconds": 4e5, "machine": platform.machine(), "worked": worked}
    write_json(tuned.costs("embed_captions"), costs)  # and no metrics, as DVC leaves it
    count, time = told_by(params, env, caplog)
    said = f"about {count * 20 / 60:,.1f} minutes, 20 s a text: your last run, 20,000 of them"
    assert time == f"embed_captions: {said}"


def told_by(params: Params, env: Environment, caplog: pytest.LogCaptureFixture) -> tuple[int, str]:
    """Run the stage; return how many texts it says are new, and what it says of the time."""
    with caplog.at_level(logging.INFO, "llm2clip"):
        run(params, env)
    captions, time = [line for line in caplog.messages if " minutes, " in line or "to embed" in line]
    return int(captions.split(" of them new")[0].split()[-1]), time


def test_where_much_is_to_be_done_some_of_it_tells_the_minutes(
    tuned: Layout,  # noqa: F811
    smoke: Params,
    env: Environment,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(survey, "TEXTS_WORTH_A_SAMPLE", 1)
    seconds = iter([0.0, 3.0, 6.0])  # the second piece of the sample is the last
    monkeypatch.setattr(survey, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    count, said = told_by(changed(smoke, llms=["tuned"]), env, caplog)
    assert count > 2 * survey.TEXTS_OF_SAMPLE
    minutes = f"{count * 6 / (2 * survey.TEXTS_OF_SAMPLE) / 60:,.1f}"
    assert said == f"embed_captions: about {minutes} minutes, extrapolated from a sample timed now"


def test_a_run_leaves_how_many_texts_it_embedded_itself(
    tuned: Layout,  # noqa: F811
    smoke: Params,
    env: Environment,
) -> None:
    run(changed(smoke, llms=["tuned"]), env)
    (texts,) = worked(tuned.work("embed_captions")).values()
    figures = [read_json(path) for path in (tuned.artifact("embed_captions") / "tuned").rglob("*.json")]
    assert texts == sum(one["unique_captions"] for one in figures if "unique_captions" in one)
    shutil.rmtree(tuned.work("embed_captions") / "worked")  # as a stage that starts does
    run(changed(smoke, llms=["tuned"]), env)
    assert not worked(tuned.work("embed_captions"))


def test_a_disk_without_room_stops_the_stage_before_it_starts(
    tuned: Layout,  # noqa: F811
    smoke: Params,
    env: Environment,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_llm(monkeypatch)
    usage = shutil.disk_usage(".")._replace(free=survey.SPARE_BYTES)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InfrastructureError, match="has 200 MB free, embed_captions needs"):
        run(smoke, env)
    assert not tuned.artifact("embed_captions").exists()
    check_room(0, [Path("anywhere")])
