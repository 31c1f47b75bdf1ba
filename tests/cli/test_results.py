"""What is printed at the end of `make run`: places, and the seconds behind the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.cli.results import results
from components.errors import DataError
from components.running.costs import Costs, Spent, store_spent
from components.storage.atomic import read_json, write_json
from components.storage.layout import STAGES, Layout

STEPS = {"clip_long": 220, "llm2clip": 400}
SPENT = {
    "train_clip": {"llm2clip": Spent(26.123), "clip_long": Spent(25.86, 3.0)},
    "tune_llm": {"tuned": Spent(88.2, 4.0)},
    "embed_captions": {"base": Spent(5.1), "tuned": Spent(6.0)},
}
TRAINING = "seconds of training: clip_long 25.9 (220 steps), llm2clip 26.1 (400 steps)"
TEXT = "        for cached text, once for all arms: tune_llm 88.2; embed_captions base 5.1, tuned 6.0"


@pytest.fixture
def layout(workspace: Path) -> Layout:
    """A project whose stages have all run."""
    layout = Layout(workspace / ".work")
    for stage in STAGES:
        write_json(layout.artifact(stage) / "manifest.json", {"of": stage})
        write_json(layout.metrics(stage), {})
        store_spent(layout.work(stage), SPENT.get(stage, {}))
        Costs().write(layout, stage)
    write_json(layout.metrics("train_clip"), {"arms": {name: {"steps": of} for name, of in STEPS.items()}})
    write_json(layout.metrics("embed_captions"), {"llms": {"base": {}, "tuned": {}}})
    for name in ("evaluate", "audit"):
        (layout.artifact(name) / "report.html").touch()
    return layout


def test_the_seconds_follow_the_places(layout: Layout) -> None:
    *places, training, text = results(layout)
    assert [line.split()[0] for line in places] == ["report", "audit", "metrics", "model"]
    assert (training, text) == (TRAINING, TEXT)


def test_what_measuring_took_is_in_costs_apart(layout: Layout) -> None:
    costs = read_json(layout.costs("train_clip"))
    assert costs["spent_seconds"] == {"clip_long": 25.86, "llm2clip": 26.12}
    assert costs["measuring_seconds"] == {"clip_long": 3.0, "llm2clip": 0.0}
    assert read_json(layout.costs("audit"))["spent_seconds"] == {}


def test_what_is_not_known_is_said(layout: Layout) -> None:
    store_spent(
        layout.work("train_clip"), {"llm2clip": Spent(1.0, is_known=False), "clip_long": Spent(25.86)}
    )
    Costs().write(layout, "train_clip")
    assert read_json(layout.costs("train_clip"))["spent_seconds"] == {"clip_long": 25.86, "llm2clip": None}
    assert results(layout)[-2:] == [TRAINING.replace("26.1", "unknown"), TEXT]


def of_earlier_version(path: Path) -> None:
    write_json(path, {"seconds": 1.0})


def damaged(path: Path) -> None:
    path.write_text('{"seconds')


def of_another_output(path: Path) -> None:
    write_json(Path("artifacts") / path.stem / "manifest.json", {"of": "what DVC brought back"})


@pytest.mark.parametrize("change", [Path.unlink, of_earlier_version, damaged, of_another_output])
def test_costs_that_say_nothing_of_the_output_leave_its_seconds_unknown(layout: Layout, change: Any) -> None:
    for stage in ("tune_llm", "train_clip"):
        change(layout.costs(stage))
    assert results(layout)[-2:] == [
        TRAINING.replace("25.9", "unknown").replace("26.1", "unknown"),
        TEXT.replace("88.2", "unknown"),
    ]


def test_a_pipeline_that_has_not_run_to_its_end(layout: Layout) -> None:
    layout.metrics("audit").unlink()
    with pytest.raises(DataError, match="a stage of metrics/ not found: `dvc repro` makes it"):
        results(layout)
