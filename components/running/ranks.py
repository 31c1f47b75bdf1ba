"""Train in several processes: one a GPU, or over machines by torchrun.

The processes only train. What they leave is the checkpoint of the last step, from which the stage itself goes
on, as it would after a run that was stopped there: so everything else is written once and in one place.

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint host:29400 \
        -m components.running.rank tune_llm

does the same over two machines that share the work store and the project's folder; `dvc repro` then finds the
training done.
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

# of one exchange: with the 30 seconds that torch leaves a process to end by itself, one that hangs ends all
# of them within a minute
STEP_TIMEOUT = timedelta(seconds=25)
WAIT_TIMEOUT = timedelta(hours=2)  # for the first process while it writes a checkpoint
ERRORS: tuple[type[PipelineError], ...] = (ConfigurationError, DataError, InfrastructureError, GateError)
_patient: list[dist.ProcessGroup] = []  # the group that waits long; there is one, once there are processes


def training_processes(env: Environment) -> int:
    """Return how many processes train: as many as asked for, or one a GPU."""
    return env.training_processes or gpus_in_use(env) or 1


def train_apart(stage: str, env: Environment, work: Path) -> None:
    """Have several processes train a stage's model to the end, where several are asked for.

    Args:
        stage: Its `stage.py` has `train(params, env)`.
        env: Of the run.
        work: The stage's folder in the work store.

    Raises:
        Stopped: a stop signal came; a checkpoint was saved.
        PipelineError: as a process met it.
        InfrastructureError: a process died or hung.
    """
    count = training_processes(env)
    if count == 1:
        return
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    said = said_in(work)
    remove(said)
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
    # that of the terminal is not for a run that was started to survive it
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGTERM,SIGINT"
    try:
        elastic_launch(config, sys.executable)("-m", "components.running.rank", stage)
    except SignalException:
        raise Stopped from None
    except ChildFailedError as error:
        raise _fault(said, error) from None
    finally:
        raise_on_stop_signals()  # the launcher put its own in their place


def said_in(work: Path) -> Path:
    """Return the folder of what failed processes said."""
    return work / "ranks"


def _fault(said: Path, error: ChildFailedError) -> PipelineError:
    outcomes = [read_json(path) for path in sorted(said.glob("*.json"))]
    for outcome in outcomes:
        for fault in ERRORS:
            if outcome["exit_code"] == fault.exit_code:
                return fault(outcome["message"])
    _, failure = error.get_first_failure()
    # the others are stopped when one fails; a signal leaves no word, and those that miss it say little
    words = [one["message"] for one in outcomes if one["exit_code"] != Stopped.exit_code]
    why = "likely memory" if failure.exitcode == -9 else "see the log above"
    if words and failure.exitcode > 0:
        why = words[0]
    return InfrastructureError(
        f"training process {failure.local_rank} ended with {failure.exitcode} ({why}); the next run goes on "
        "from the last checkpoint"
    )


@contextmanager
def process_group(env: Environment) -> Iterator[None]:
    """Join the processes that the launcher started, for the duration of the block."""
    import torch
    import torch.distributed as dist

    is_cuda = gpus_in_use(env) > 0
    if is_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if is_cuda else "gloo", timeout=STEP_TIMEOUT)
    _patient.append(dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT))
    try:
        yield
    finally:
        _patient.clear()
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Wait until every process that trains the same model is here; nothing where there is one."""
    if not _patient:
        return
    import torch.distributed as dist

    from components.ml.distributed import world_size  # torch reads the environment, which `rank` sets first

    if world_size() > 1:
        dist.barrier(group=_patient[0])
