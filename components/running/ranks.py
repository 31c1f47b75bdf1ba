"""Train in several processes: one for each GPU, or over several machines by torchrun.

The processes only train. They leave the checkpoint of the last step, from which the stage itself continues as
after a stopped run, so everything else is written by one process.

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint host:29400 \
        -m components.running.rank tune_llm

does the same on two machines that share the work store and the project folder; `dvc repro` then finds the
training finished.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import (
    ConfigurationError,
    DataError,
    GateError,
    InfrastructureError,
    PipelineError,
    Stopped,
)
from components.running.gpus import gpus_in_use
from components.running.signals import raise_on_stop_signals
from components.running.workers import usable_cores
from components.settings.environment import Environment
from components.storage.atomic import read_json, remove

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

# of one collective; torch then gives processes 30 seconds to exit, so a hanging process ends all within a
# minute
STEP_TIMEOUT = timedelta(seconds=25)
WAIT_TIMEOUT = timedelta(hours=2)  # other processes wait while the first one writes a checkpoint
ERRORS: tuple[type[PipelineError], ...] = (ConfigurationError, DataError, InfrastructureError, GateError)
_patient_groups: list[dist.ProcessGroup] = []  # the group with WAIT_TIMEOUT; empty outside `process_group`


def training_processes(env: Environment) -> int:
    """Return the number of training processes: as configured, or one for each GPU."""
    return env.training_processes or gpus_in_use(env) or 1


def train_apart(stage: str, env: Environment, work: Path) -> None:
    """Train a stage's model to the end in several processes, if several are configured.

    Args:
        stage: Stage whose `stage.py` has `train(params, env)`.
        env: Environment of the run.
        work: The stage's folder in the work store.

    Raises:
        Stopped: a stop signal came; a checkpoint was saved.
        PipelineError: the error of a process.
        InfrastructureError: a process died or hung.
    """
    count = training_processes(env)
    if count == 1:
        return
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    errors = said_in(work)
    remove(errors)
    if not env.threads:
        os.environ["OMP_NUM_THREADS"] = str(max(1, usable_cores() // count))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=stage,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    # without SIGHUP, so that a run survives its terminal
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGTERM,SIGINT"
    try:
        elastic_launch(config, sys.executable)("-m", "components.running.rank", stage)
    except SignalException:
        raise Stopped from None
    except ChildFailedError as error:
        raise _error_of(errors, error) from None
    finally:
        raise_on_stop_signals()  # the launcher replaced our handlers


def said_in(work: Path) -> Path:
    """Return the folder of the errors of failed processes."""
    return work / "ranks"


def _error_of(folder: Path, error: ChildFailedError) -> PipelineError:
    outcomes = [read_json(path) for path in sorted(folder.glob("*.json"))]
    for outcome in outcomes:
        for kind in ERRORS:
            if outcome["exit_code"] == kind.exit_code:
                return kind(outcome["message"])
    _, failure = error.get_first_failure()
    # the others are stopped when one fails; a killed process leaves no message, and theirs says little
    messages = [outcome["message"] for outcome in outcomes if outcome["exit_code"] != Stopped.exit_code]
    reason = "likely memory" if failure.exitcode == -9 else "see the log above"
    if messages and failure.exitcode > 0:
        reason = messages[0]
    return InfrastructureError(
        f"training process {failure.local_rank} ended with {failure.exitcode} ({reason}); the next run "
        "continues from the last checkpoint"
    )


@contextmanager
def process_group(env: Environment) -> Iterator[None]:
    """Join the process group of the launched processes within the block."""
    import torch
    import torch.distributed as dist

    is_cuda = gpus_in_use(env) > 0
    if is_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if is_cuda else "gloo", timeout=STEP_TIMEOUT)
    _patient_groups.append(dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT))
    try:
        yield
    finally:
        _patient_groups.clear()
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Wait for all processes that train the same model; return at once if there is only one."""
    if not _patient_groups:
        return
    import torch.distributed as dist

    from components.ml.distributed import world_size  # imports torch, after `rank` has set the environment

    if world_size() > 1:
        dist.barrier(group=_patient_groups[0])
