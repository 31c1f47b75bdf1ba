"""First on PYTHONPATH of a stage and its workers: counts all their renames, and kills the stage at one.

Each rename is two moments, before it and after it. Those of `progress.json` depend on time and do not count.
"""

from __future__ import annotations

import os
from typing import Any

rename = os.replace
stage_process = int(os.environ.setdefault("KILL_PROCESS", str(os.getpid())))  # workers inherit it


def moment() -> None:
    """Count one moment, in a file that all processes share, and kill the stage if it is the one."""
    counter = os.open(os.environ["KILL_COUNTER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(counter, b".")
    number = os.lseek(counter, 0, os.SEEK_CUR)
    os.close(counter)
    if number == int(os.environ["KILL_AT"]):
        os.kill(stage_process, int(os.environ["KILL_BY"]))


def counted(source: Any, target: Any, **places: Any) -> None:  # noqa: ANN401 - as os.replace
    """Rename between two moments."""
    is_counted = "progress.json" not in os.fspath(target)
    if is_counted:
        moment()
    rename(source, target, **places)
    if is_counted:
        moment()


os.replace = counted  # type: ignore[assignment]
