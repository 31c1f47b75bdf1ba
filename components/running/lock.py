"""Lock of a stage in the work store: one writer, by flock, which is released however the process ends.

Training processes outlive a killed stage by a step and a checkpoint. They share a second lock, and the next
writer waits for that one too.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from components.errors import InfrastructureError

PATIENCE_SECONDS = 60.0  # a stopped stage still writes its checkpoint
POLL_SECONDS = 0.2
LOCK, TRAINING_LOCK = "lock", "training.lock"
log = logging.getLogger(__name__)


@contextmanager
def one_writer(work: Path, stage: str, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold the stage's lock.

    Raises:
        InfrastructureError: another process, named in the message, holds it for longer than the patience.
    """
    deadline = time.monotonic() + patience_seconds
    with (work / LOCK).open("a+") as file, (work / TRAINING_LOCK).open("a+") as training:
        _lock(file, stage, deadline)
        _lock(training, stage, deadline)
        fcntl.flock(training, fcntl.LOCK_UN)  # for the training processes that this writer starts
        _name_holder(file)
        yield


@contextmanager
def training_for(work: Path) -> Iterator[None]:
    """Hold, shared with others, the lock of the training processes of a stage."""
    with (work / TRAINING_LOCK).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        _name_holder(file)
        yield


def _lock(file: IO[str], stage: str, deadline: float) -> None:
    while not _locked(file.fileno()):
        file.seek(0)
        holder = file.read().strip() or "unknown"
        if time.monotonic() > deadline:
            raise InfrastructureError(f"{stage} is being run by process {holder}: wait for it or stop it")
        log.info("%s: waiting for process %s, which still runs this stage", stage, holder)
        time.sleep(POLL_SECONDS)


def _name_holder(file: IO[str]) -> None:
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
