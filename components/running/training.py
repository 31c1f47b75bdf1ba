"""One training loop: seeded by step, checkpointed, resumed exactly, stopped by a signal or a bad loss."""

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
KEY_DIGITS = 15  # hexadecimal, so that a number of 63 bits holds them


@dataclass
class TrainingRun:
    """What one training run consists of.

    `step(number)` does forward, backward and `optimizer.step()` of one optimizer update and returns the loss.
    Its randomness comes from torch's global generator, seeded by (seed, number) before each call, and its
    batch from `batch_rows`: so weights and optimizer are the whole state of a run.
    """

    name: str
    modules: dict[str, nn.Module]
    optimizer: torch.optim.Optimizer
    learning_rate_at: Callable[[int], float]  # relative to each group's peak, which is `group["peak"]`
    steps: int
    step: Callable[[int], Tensor]
    seed: int
    measure: Callable[[], dict[str, float]] | None = None  # figures of the model, for the history
    measure_steps: int = 0  # every so many steps; 0: never
    best_by: str | None = None  # one of the figures: the run ends with the weights of its highest value
    spent: Spent = field(default_factory=Spent)  # after `train`: the seconds of all steps that count


@dataclass
class Best:
    """The weights that measured best so far; the first of equals.

    Attributes:
        step: Optimizer updates behind them.
        value: Of the figure.
        weights: By name, copies on the device.
    """

    step: int = 0
    value: float = -math.inf
    weights: dict[str, Tensor] = field(default_factory=dict)


def train(
    run: TrainingRun, work: Path, identity: dict[str, Any], checkpoint_steps: int
) -> list[dict[str, float]]:
    """Train to the last step and return the history: step and loss every tenth step, figures where measured.

    A checkpoint holds the seconds so far (`run.spent`), so that a step is counted once however often a run is
    killed. They decide nothing; one that goes on from a checkpoint of an earlier version has unknown ones.

    With `best_by` the modules end with the weights of the best measurement, else with those of the last step.

    Several processes train together (`components.ml.distributed`); the first alone writes, and all see the
    same loss and stop at the same step.

    Args:
        run: What to train.
        work: The stage's folder in the work store.
        identity: What decides the run: params, data hash; another identity starts fresh.
        checkpoint_steps: A checkpoint every so many steps.

    Raises:
        DataError: the loss is not finite; the last good checkpoint stays. Or processes see different things.
        Stopped: a stop signal arrived; a checkpoint was saved.
    """
    checkpoints = Checkpoints(work / "checkpoints" / run.name, identity, is_writer=rank() == 0)
    best = Best()
    first, history = _resume(run, checkpoints, best)
    progress = Progress(work, run.name, run.steps, "step", done=first, is_told=rank() == 0)
    with deferred_stop() as stop:
        for number in range(first, run.steps):
            torch.manual_seed(run.seed * SEED_STRIDE + number)
            for group in run.optimizer.param_groups:
                group["lr"] = group["peak"] * run.learning_rate_at(number)
            start_seconds = time.monotonic()
            loss = float(run.step(number).detach())  # waits for the device, the update included
            run.spent.work_seconds += time.monotonic() - start_seconds
            progress.advance(note=f"loss {loss:.3f}")
            is_odd, is_stopped = all_reduce_any(not math.isfinite(loss), stop.requested)
            if is_odd:
                raise DataError(
                    f"{run.name}: loss is {loss} at step {number}; lower the learning rate, look at the data"
                )
            points = _points(run, number, loss)
            history += points
            _remember_best(run, points, best)
            if is_stopped or (number + 1) % checkpoint_steps == 0 or number + 1 == run.steps:
                _save(run, checkpoints, number + 1, history, best)
            if is_stopped:
                raise Stopped
        if all_reduce_any(stop.requested)[0]:  # while the last step was measured or saved
            raise Stopped
    _take_best(run, best)
    return history


@torch.no_grad()
def _take_best(run: TrainingRun, best: Best) -> None:
    for name, tensor in _weights(run):
        tensor.copy_(best.weights.get(name, tensor))


def _remember_best(run: TrainingRun, points: list[dict[str, float]], best: Best) -> None:
    """Copy the weights, if they were measured and did better than any before."""
    for point in points:
        if run.best_by and point.get(run.best_by, -math.inf) > best.value:
            best.step, best.value = int(point["step"]) + 1, point[run.best_by]
            best.weights = {name: tensor.detach().clone() for name, tensor in _weights(run)}


def _points(run: TrainingRun, number: int, loss: float) -> list[dict[str, float]]:
    """Return the line of a step in the history, if it has one."""
    is_last = number == run.steps - 1
    figures = {}
    if run.measure and run.measure_steps and ((number + 1) % run.measure_steps == 0 or is_last):
        start_seconds = time.monotonic()
        figures = run.measure()
        wait_for_all()  # one may be much slower at it
        run.spent.measuring_seconds += time.monotonic() - start_seconds
    if figures or number % HISTORY_STEPS == 0 or is_last:
        return [{"step": number, "loss": loss, **figures}]
    return []


def history_csv(points: Sequence[Mapping[str, float]], leading: Sequence[str]) -> bytes:
    """Return points of a history as a table; figures that were not measured at a step are left empty.

    Args:
        points: Of one run, or of several with what tells them apart.
        leading: The first columns; all others follow by name.
    """
    columns = [*leading, *sorted({name for point in points for name in point} - {*leading})]
    lines = [[_cell(point[name]) if name in point else "" for name in columns] for point in points]
    return "\n".join([*(",".join(line) for line in [columns, *lines]), ""]).encode()


def _cell(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6f}"


def clip_gradients(name: str, number: int, weights: Iterable[Tensor], largest: float) -> None:
    """Scale the gradients of a run's step down to a largest norm.

    Raises:
        DataError: the norm is not finite; no weight has moved.
    """
    norm = float(full_tensor(nn.utils.clip_grad_norm_(weights, largest)))
    if not math.isfinite(norm):
        raise DataError(
            f"{name}: the gradient's norm is {norm} at step {number}; the last good checkpoint stays: "
            "lower the learning rates or look at the data"
        )


def _save(
    run: TrainingRun, checkpoints: Checkpoints, step: int, history: list[dict[str, float]], best: Best
) -> None:
    tensors = _tensors(run, best)  # all processes have a part in it
    if rank() == 0:
        state = {"best_step": best.step, "best_value": best.value} if best.weights else {}
        checkpoints.save(step, tensors, {"history": history, "spent": run.spent.tree(), **state})
    wait_for_all()


def _resume(run: TrainingRun, checkpoints: Checkpoints, best: Best) -> tuple[int, list[dict[str, float]]]:
    wait_for_all()  # the first may have cleared away checkpoints of other params
    found = checkpoints.load()
    _check_agreement(run, checkpoints, found[0] if found else 0)
    if found is None:
        run.spent = Spent()
        return 0, []
    step, tensors, state = found
    run.spent = Spent.of(state.get("spent"))
    with torch.no_grad():
        for name, tensor in _weights(run):
            tensor.copy_(placed_like(tensors[f"module.{name}"], tensor))
            if "best_step" in state:
                best.weights[name] = placed_like(tensors[f"best.{name}"], tensor)
    best.step, best.value = state.get("best_step", best.step), state.get("best_value", best.value)
    wait_for_all()  # one may have read from a slower disk
    if step == run.steps:
        return step, state["history"]  # nobody asks for what the optimizer remembers
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
    return step, state["history"]


def _check_agreement(run: TrainingRun, checkpoints: Checkpoints, step: int) -> None:
    """Refuse to train with processes that see something else: their gradients would be of other models."""
    key = int(content_key(checkpoints.identity)[:KEY_DIGITS], 16)
    if not is_agreed(key, step):
        raise DataError(
            f"{run.name}: process {rank()} would go on from step {step}, another one from another step "
            "or by other params or data: expected one project and one work store that all machines share"
        )


def _tensors(run: TrainingRun, best: Best) -> dict[str, Tensor]:
    """Return copies of all that is saved, in the process that writes it; no device holds them all at once."""
    named = [(f"module.{name}", tensor) for name, tensor in _weights(run)]
    named += [(f"best.{name}", tensor) for name, tensor in best.weights.items()]
    for index, fields in run.optimizer.state_dict()["state"].items():
        named += [(f"optimizer.{index}.{field}", torch.as_tensor(value)) for field, value in fields.items()]
    tensors = {}
    for name, tensor in named:
        gathered = full_tensor(tensor)  # every process has to ask
        if rank() == 0:
            tensors[name] = gathered.to("cpu", copy=True)
    return tensors


def _weights(run: TrainingRun) -> Iterator[tuple[str, Tensor]]:
    """Yield what training changes: parameters that learn, and buffers (BatchNorm's statistics)."""
    for prefix, module in sorted(run.modules.items()):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                yield f"{prefix}.{name}", parameter
        for name, buffer in module.named_buffers():
            yield f"{prefix}.{name}", buffer
