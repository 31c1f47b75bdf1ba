"""Training loop: seeded by step, checkpointed, resumed exactly, stopped by a signal or a bad loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.errors import DataError, Stopped
from components.ml.distributed import all_reduce_any, full_tensor, is_agreed, placed_like, rank
from components.ml.schedule import SEED_STRIDE
from components.running.costs import Spent
from components.running.progress import Progress
from components.running.ranks import wait_for_all
from components.running.signals import deferred_stop
from components.storage.atomic import content_key
from components.storage.checkpoint import Checkpoints

HISTORY_STEPS = 10
KEY_DIGITS = 15  # hexadecimal digits that fit 63 bits


@dataclass
class TrainingRun:
    """The parts of one training run.

    `step(number)` does forward, backward and `optimizer.step()` of one optimizer update and returns the loss.
    Its randomness comes from torch's global generator, seeded by (seed, number) before each call, and its
    batch from `batch_rows`, so weights and optimizer are the whole state of a run.
    """

    name: str
    modules: dict[str, nn.Module]
    optimizer: torch.optim.Optimizer
    learning_rate_at: Callable[[int], float]  # share of each group's peak, `group["peak"]`
    steps: int
    step: Callable[[int], Tensor]
    seed: int
    measure: Callable[[], dict[str, float]] | None = None  # figures for the history
    measure_steps: int = 0  # interval; 0: never
    measured_by: str | None = None  # hash of what decides the figures, but not the weights
    best_by: str | None = None  # figure whose highest value decides the final weights
    spent: Spent = field(default_factory=Spent)  # filled by `train`: seconds of all steps


@dataclass
class Best:
    """The weights of the best measurement so far, the first of equals.

    Attributes:
        step: Optimizer updates up to the measurement.
        value: Value of the figure.
        weights: Copies on the device, by name.
    """

    step: int = 0
    value: float = -math.inf
    weights: dict[str, Tensor] = field(default_factory=dict)


def train(
    run: TrainingRun, work: Path, identity: dict[str, Any], checkpoint_steps: int
) -> list[dict[str, float]]:
    """Train to the last step and return the history: step and loss every tenth step, figures if measured.

    A checkpoint holds the seconds so far (`run.spent`), so that a step is counted once however often a run is
    killed. They decide nothing, and are unknown after a checkpoint of an earlier version.

    With `best_by` the modules end with the weights of the best measurement, else of the last step. Without
    it, figures that an earlier run measured by something else are left out of the history.

    Several processes train together (`components.ml.distributed`). Only the first one writes; all see the
    same loss and stop at the same step.

    Args:
        run: The run.
        work: The stage's folder in the work store.
        identity: All that decides the run: params, data hash. Another identity starts from the beginning.
        checkpoint_steps: Steps between checkpoints.

    Raises:
        DataError: the loss is not finite (the last good checkpoint stays), or processes see different params,
            data or checkpoints.
        Stopped: a stop signal arrived; a checkpoint was saved.
    """
    checkpoints = Checkpoints(work / "checkpoints" / run.name, identity, is_writer=rank() == 0)
    best = Best()
    first, history = _resume(run, checkpoints, best)
    progress = Progress(work, run.name, run.steps, "step", done=first, is_told=rank() == 0)
    with deferred_stop() as stop:
        for step in range(first, run.steps):
            torch.manual_seed(run.seed * SEED_STRIDE + step)
            for group in run.optimizer.param_groups:
                group["lr"] = group["peak"] * run.learning_rate_at(step)
            start_seconds = time.monotonic()
            loss = float(run.step(step).detach())  # waits for the device, update included
            run.spent.work_seconds += time.monotonic() - start_seconds
            progress.advance(note=f"loss {loss:.3f}")
            is_not_finite, is_stopped = all_reduce_any(not math.isfinite(loss), stop.requested)
            if is_not_finite:
                raise DataError(
                    f"{run.name}: loss is {loss} at step {step}; expected a finite one: lower the "
                    "learning rate or check the data"
                )
            points = _points(run, step, loss)
            history += points
            _remember_best(run, points, best)
            if is_stopped or (step + 1) % checkpoint_steps == 0 or step + 1 == run.steps:
                _save(run, checkpoints, step + 1, history, best)
            if is_stopped:
                raise Stopped
        if all_reduce_any(stop.requested)[0]:  # arrived while the last step was measured or saved
            raise Stopped
    _take_best(run, best)
    return history


@torch.no_grad()
def _take_best(run: TrainingRun, best: Best) -> None:
    for name, tensor in _weights(run):
        tensor.copy_(best.weights.get(name, tensor))


def _remember_best(run: TrainingRun, points: list[dict[str, float]], best: Best) -> None:
    """Copy the weights if they were measured and are the best so far."""
    for point in points:
        if run.best_by and point.get(run.best_by, -math.inf) > best.value:
            best.step, best.value = int(point["step"]) + 1, point[run.best_by]
            best.weights = {name: tensor.detach().clone() for name, tensor in _weights(run)}


def _points(run: TrainingRun, step: int, loss: float) -> list[dict[str, float]]:
    """Return the history line of a step, or an empty list."""
    is_last = step == run.steps - 1
    figures = {}
    if run.measure and run.measure_steps and ((step + 1) % run.measure_steps == 0 or is_last):
        start_seconds = time.monotonic()
        figures = run.measure()
        wait_for_all()  # one process may be much slower
        run.spent.measuring_seconds += time.monotonic() - start_seconds
    return [{"step": step, "loss": loss, **figures}] if figures or _is_told(run, step) else []


def _is_told(run: TrainingRun, step: int) -> bool:
    """Say whether the history has a step, measured or not."""
    return step % HISTORY_STEPS == 0 or step == run.steps - 1


def history_csv(points: Sequence[Mapping[str, float]], leading: Sequence[str]) -> bytes:
    """Return points of a history as CSV; figures that were not measured at a step are empty.

    Args:
        points: Points of one run, or of several with columns that tell them apart.
        leading: First columns; all others follow by name.
    """
    columns = [*leading, *sorted({name for point in points for name in point} - {*leading})]
    lines = [[_cell(point[name]) if name in point else "" for name in columns] for point in points]
    return "\n".join([*(",".join(line) for line in [columns, *lines]), ""]).encode()


def _cell(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6f}"


def clip_gradients(name: str, number: int, weights: Iterable[Tensor], largest: float) -> None:
    """Clip the gradients of a step to a largest norm.

    Raises:
        DataError: the norm is not finite; no weight has moved.
    """
    norm = float(full_tensor(nn.utils.clip_grad_norm_(weights, largest)))
    if not math.isfinite(norm):
        raise DataError(
            f"{name}: the gradient's norm is {norm} at step {number}; expected a finite one: lower "
            "the learning rates or check the data; the last good checkpoint stays"
        )


def _save(
    run: TrainingRun, checkpoints: Checkpoints, step: int, history: list[dict[str, float]], best: Best
) -> None:
    tensors = _tensors(run, best)  # a collective: all processes call it
    if rank() == 0:
        state: dict[str, Any] = {}
        if best.weights:
            state = {"best_step": best.step, "best_value": best.value}
        state |= {"history": history, "spent": run.spent.tree(), "measured_by": run.measured_by}
        checkpoints.save(step, tensors, state)
    wait_for_all()


def _resume(run: TrainingRun, checkpoints: Checkpoints, best: Best) -> tuple[int, list[dict[str, float]]]:
    wait_for_all()  # the first process may have removed checkpoints of other params
    saved = checkpoints.load()
    _check_agreement(run, checkpoints, saved[0] if saved else 0)
    if saved is None:
        run.spent = Spent()
        return 0, []
    step, tensors, state = saved
    run.spent = Spent.of(state.get("spent"))
    history = state["history"]
    if state.get("measured_by") != run.measured_by:
        history = [point for point in map(_without_figures, history) if _is_told(run, int(point["step"]))]
    with torch.no_grad():
        for name, tensor in _weights(run):
            tensor.copy_(placed_like(tensors[f"module.{name}"], tensor))
            if "best_step" in state:
                best.weights[name] = placed_like(tensors[f"best.{name}"], tensor)
    best.step, best.value = state.get("best_step", best.step), state.get("best_value", best.value)
    wait_for_all()  # one process may have read from a slower disk
    if step == run.steps:
        return step, history  # finished: the optimizer state is not needed
    optimizer = run.optimizer.state_dict()
    optimizer["state"] = {}
    weights = [weight for group in run.optimizer.param_groups for weight in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".")
            is_like_weight = tensor.shape == weights[int(index)].shape
            value = placed_like(tensor, weights[int(index)]) if is_like_weight else tensor
            optimizer["state"].setdefault(int(index), {})[field] = value
    run.optimizer.load_state_dict(optimizer)
    return step, history


def _without_figures(point: dict[str, float]) -> dict[str, float]:
    return {name: point[name] for name in ("step", "loss")}


def _check_agreement(run: TrainingRun, checkpoints: Checkpoints, step: int) -> None:
    """Check that all processes have the same identity and step, so that their gradients fit one model."""
    key = int(content_key(checkpoints.identity)[:KEY_DIGITS], 16)
    if not is_agreed(key, step):
        raise DataError(
            f"{run.name}: process {rank()} would resume at step {step}, another process at another step or "
            "with other params or data; expected the same: share project and work store on all machines"
        )


def _tensors(run: TrainingRun, best: Best) -> dict[str, Tensor]:
    """Return CPU copies of all saved tensors in the first process; no device holds all at once."""
    named = [(f"module.{name}", tensor) for name, tensor in _weights(run)]
    named += [(f"best.{name}", tensor) for name, tensor in best.weights.items()]
    for index, fields in run.optimizer.state_dict()["state"].items():
        named += [(f"optimizer.{index}.{field}", torch.as_tensor(value)) for field, value in fields.items()]
    tensors = {}
    for name, tensor in named:
        gathered = full_tensor(tensor)  # a collective: all processes call it
        if rank() == 0:
            tensors[name] = gathered.to("cpu", copy=True)
    return tensors


def _weights(run: TrainingRun) -> Iterator[tuple[str, Tensor]]:
    """Yield all that training changes: trainable parameters, and buffers (BatchNorm's statistics)."""
    for prefix, module in sorted(run.modules.items()):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                yield f"{prefix}.{name}", parameter
        for name, buffer in module.named_buffers():
            yield f"{prefix}.{name}", buffer
