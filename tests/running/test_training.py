"""A stopped and resumed run equals an undisturbed one bit for bit, whatever seconds it took."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.errors import DataError, Stopped
from components.ml.schedule import batch_rows, warmup_cosine
from components.running import training
from components.running.costs import Spent
from components.running.training import TrainingRun, clip_gradients, history_csv, train
from components.storage.atomic import read_json, write_json
from components.storage.manifest import write_manifest

STEPS = 12


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))

    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(self.frozen(rows))


def fresh_run(
    stop_at: int | None = None, nan_at: int | None = None, measures: list[float] | None = None
) -> TrainingRun:
    """Return a run; with `measures` it is measured every third step, by turns as they say."""
    torch.manual_seed(0)
    model, data = Model(), torch.randn(32, 4)
    optimizer = torch.optim.AdamW([{"params": model.layers.parameters(), "peak": 0.05}], lr=0.0)

    steps: list[int] = []

    def step(number: int) -> Tensor:
        steps.append(number)
        rows = data[batch_rows(len(data), 8, 1, number)]
        loss = (model(rows) ** 2).mean() * (float("nan") if number == nan_at else 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if number == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    run = TrainingRun("toy", {"model": model}, optimizer, warmup_cosine(3, STEPS), STEPS, step, seed=5)
    if measures:
        run.measure = lambda: {"recall": measures[steps[-1] // 3]}
        run.measure_steps, run.best_by = 3, "recall"
    return run


def trained(
    run: TrainingRun, work: Path, identity: dict[str, Any] | None = None
) -> tuple[dict[str, Tensor], Any]:
    history = train(run, work, identity or {"learning_rate": 0.05}, checkpoint_steps=5)
    return run.modules["model"].state_dict(), history


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("stop_at", [0, 4, 6, STEPS - 1])
def test_stop_and_resume_equals_no_interruption(tmp_path: Path, stop_at: int) -> None:
    weights, history = trained(fresh_run(), tmp_path / "a")
    with pytest.raises(Stopped):
        trained(fresh_run(stop_at), tmp_path / "b")
    resumed_weights, resumed_history = trained(fresh_run(), tmp_path / "b")
    assert same(weights, resumed_weights)
    assert history == resumed_history


@pytest.mark.parametrize("stop_at", [None, 4, 6, 8, STEPS - 1])
def test_the_best_weights_are_kept_whenever_it_is_stopped(tmp_path: Path, stop_at: int | None) -> None:
    at_six = fresh_run()
    at_six.steps = 6
    wanted, _ = trained(at_six, tmp_path / "six")
    measures = [0.1, 0.5, 0.5, 0.2]  # after 3, 6, 9 and 12 steps; the first of equals is kept
    if stop_at is not None:
        with pytest.raises(Stopped):
            trained(fresh_run(stop_at, measures=measures), tmp_path / "b")
    weights, history = trained(fresh_run(measures=measures), tmp_path / "b")
    assert same(weights, wanted)
    assert [point["recall"] for point in history if "recall" in point] == measures
    again, _ = trained(fresh_run(measures=measures), tmp_path / "b")  # nothing is left to do
    assert same(again, wanted)


@pytest.mark.parametrize("stop_at", [None, 7])
def test_figures_of_another_measurement_are_left_out_and_nothing_is_trained_again(
    tmp_path: Path, stop_at: int | None
) -> None:
    def run(measured_by: str, stop_at: int | None = None) -> TrainingRun:
        made = fresh_run(stop_at, measures=[0.1, 0.2, 0.3, 0.4])
        made.best_by, made.measured_by = None, measured_by
        return made

    weights, whole = trained(run("one task"), tmp_path / "a")
    assert [point["step"] for point in whole if "recall" in point] == [2, 5, 8, 11]
    if stop_at is not None:
        with pytest.raises(Stopped):
            trained(run("one task", stop_at), tmp_path / "b")
        resumed, history = trained(run("two tasks"), tmp_path / "b")
        assert [point["step"] for point in history if "recall" in point] == [8, 11]
    else:
        resumed, history = trained(run("two tasks"), tmp_path / "a")
        assert [point["step"] for point in history] == [0, 10, 11]
        assert not any("recall" in point for point in history)
        _, again = trained(run("one task"), tmp_path / "a")
        assert again == whole  # the checkpoint has them still
    assert same(weights, resumed)


def test_another_identity_starts_fresh_and_names_the_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights, _ = trained(fresh_run(), tmp_path / "a")
    with pytest.raises(Stopped):
        trained(fresh_run(6), tmp_path / "b", {"learning_rate": 0.1})
    fresh, _ = trained(fresh_run(), tmp_path / "b")
    assert same(weights, fresh)
    assert "learning_rate 0.1 -> 0.05" in caplog.text


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights, _ = trained(fresh_run(), tmp_path / "a")
    with pytest.raises(Stopped):
        trained(fresh_run(6), tmp_path / "b")
    newest = tmp_path / "b" / "checkpoints" / "toy" / "00000007" / "tensors.safetensors"
    data = bytearray(newest.read_bytes())
    data[-3] ^= 4
    newest.write_bytes(data)
    resumed, _ = trained(fresh_run(), tmp_path / "b")
    assert same(weights, resumed)
    assert "checkpoint skipped" in caplog.text


def test_nan_stops_before_a_checkpoint_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="loss is nan at step 7"):
        trained(fresh_run(nan_at=7), tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints" / "toy").iterdir() if p.is_dir()] == ["00000005"]


def timed(
    monkeypatch: pytest.MonkeyPatch, run: TrainingRun, step_seconds: float, measure_seconds: float
) -> TrainingRun:
    """Have each step and each measurement of a run take so long, by a clock that stands still otherwise."""
    clock = [0.0]
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def step(number: int) -> Tensor:
        clock[0] += step_seconds
        return run.step(number)

    def measure() -> dict[str, float]:
        clock[0] += measure_seconds
        return run.measure() if run.measure else {}

    return replace(run, step=step, measure=measure)


MEASURES = [0.1, 0.5, 0.5, 0.2]


@pytest.mark.parametrize("stop_at", [0, 4, 6, 8, STEPS - 1])
def test_a_resumed_run_adds_its_seconds_and_they_decide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    undisturbed = timed(monkeypatch, fresh_run(measures=MEASURES), 2.0, 7.0)
    weights, history = trained(undisturbed, tmp_path / "a")
    assert undisturbed.spent == Spent(2.0 * STEPS, 7.0 * 4)

    with pytest.raises(Stopped):
        trained(timed(monkeypatch, fresh_run(stop_at, measures=MEASURES), 3.0, 11.0), tmp_path / "b")
    resumed = timed(monkeypatch, fresh_run(measures=MEASURES), 5.0, 13.0)
    resumed_weights, resumed_history = trained(resumed, tmp_path / "b")
    before, measured = stop_at + 1, (stop_at + 1) // 3
    assert resumed.spent == Spent(
        3.0 * before + 5.0 * (STEPS - before), 11.0 * measured + 13.0 * (4 - measured)
    )
    assert same(weights, resumed_weights)
    assert history == resumed_history

    again = timed(monkeypatch, fresh_run(measures=MEASURES), 1e9, 1e9)
    trained(again, tmp_path / "b")  # nothing is left to do
    assert again.spent == resumed.spent


def test_steps_that_are_trained_again_are_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError):  # two steps after the checkpoint of the fifth
        trained(timed(monkeypatch, fresh_run(nan_at=7), 3.0, 0.0), tmp_path)
    run = timed(monkeypatch, fresh_run(), 5.0, 0.0)
    trained(run, tmp_path)
    assert run.spent == Spent(3.0 * 5 + 5.0 * (STEPS - 5))


@pytest.mark.parametrize("stop_at", [4, None])
def test_a_checkpoint_of_an_earlier_version_has_unknown_seconds(tmp_path: Path, stop_at: int | None) -> None:
    weights, _ = trained(fresh_run(), tmp_path / "a")
    if stop_at is None:
        trained(fresh_run(), tmp_path / "b")
    else:
        with pytest.raises(Stopped):
            trained(fresh_run(stop_at), tmp_path / "b")
    for folder in (tmp_path / "b" / "checkpoints" / "toy").glob("0*"):
        state = read_json(folder / "state.json")
        del state["spent"]
        write_json(folder / "state.json", state)
        write_manifest(folder)
    for _ in range(2):  # it stays unknown
        run = fresh_run()
        resumed, _ = trained(run, tmp_path / "b")
        assert same(weights, resumed)
        assert not run.spent.is_known


def test_a_stop_while_the_last_step_is_measured_is_not_lost(tmp_path: Path) -> None:
    def measure() -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return {"recall": 0.5}

    run = replace(fresh_run(), measure=measure, measure_steps=STEPS)
    with pytest.raises(Stopped):
        trained(run, tmp_path)
    _, history = trained(fresh_run(), tmp_path)
    assert history[-1]["recall"] == 0.5  # it was saved all the same


def test_a_gradient_that_is_not_finite_moves_no_weight() -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, float("inf")])
    with pytest.raises(
        DataError,
        match="toy: the gradient's norm is inf at step 3; expected a finite one: .*; "
        "the last good checkpoint stays",
    ):
        clip_gradients("toy", 3, [weight], 1.0)
    weight.grad = torch.tensor([3.0, 4.0])
    clip_gradients("toy", 3, [weight], 1.0)
    torch.testing.assert_close(weight.grad, torch.tensor([0.6, 0.8]))


def test_batches_cover_each_epoch_once_in_a_new_order() -> None:
    epochs = [torch.cat([batch_rows(10, 5, 3, step) for step in (2 * e, 2 * e + 1)]) for e in range(2)]
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert not torch.equal(*epochs)
    assert batch_rows(3, 8, 0, 4).numel() == 3


def test_schedule_rises_then_falls_to_zero() -> None:
    share = warmup_cosine(2, 6)
    assert [round(share(step), 4) for step in range(6)] == [0.5, 1.0, 1.0, 0.8536, 0.5, 0.1464]


def test_a_batch_cannot_change_the_order_of_an_epoch() -> None:
    first = batch_rows(10, 4, 1, 0)
    expected = first.tolist()
    first.zero_()
    assert batch_rows(10, 4, 1, 0).tolist() == expected


def test_a_history_is_a_table_with_empty_cells_where_nothing_was_measured() -> None:
    points = [
        {"phase": 1, "step": 0, "loss": 2.0},
        {"phase": 1, "step": 9, "loss": 1 / 3, "recall": 1.0, "mean": 0.25},
    ]
    assert history_csv(points, ["phase", "step", "loss"]).decode().splitlines() == [
        "phase,step,loss,mean,recall",
        "1,0,2.000000,,",
        "1,9,0.333333,0.250000,1.000000",
    ]
    assert history_csv([], ["step", "loss"]) == b"step,loss\n"
