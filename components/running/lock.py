"""One writer per stage and work store, held by flock and so released however the process ends."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.faults import InfrastructureFault

PATIENCE_SECONDS = 60.0  # a stage that was told to stop still writes its checkpoint
POLL_SECONDS = 0.2
log = logging.getLogger(__name__)


@contextmanager
def one_writer(work: Path, stage: str, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold the stage's lock.

    Raises:
        InfrastructureFault: another process still holds it after the patience; names it.
    """
    with (work / "lock").open("a+") as file:
        deadline = time.monotonic() + patience_seconds
        while not _locked(file.fileno()):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            if time.monotonic() > deadline:
                raise InfrastructureFault(f"{stage} is being run by process {holder}: wait for it or stop it")
            log.info("%s: waiting for process %s, which still runs this stage", stage, holder)
            time.sleep(POLL_SECONDS)
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
