"""Run one stage: check params, take its lock, handle signals, write costs and exit code."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from components.errors import InfrastructureError, PipelineError, Stopped
from components.running.costs import SPENT, Costs
from components.running.gpus import gpus_in_use
from components.running.last_output import LastOutput
from components.running.lock import one_writer
from components.running.precision import resolved
from components.running.progress import WORKED
from components.running.rows import REJECTED
from components.running.signals import die_with_parent, ignore_stop_signals, raise_on_stop_signals
from components.running.workers import stop_server
from components.settings.environment import Environment, load_environment
from components.settings.params import Params, load_params
from components.storage.atomic import remove, write_json
from components.storage.bulk import FETCHED
from components.storage.computed import remember_code
from components.storage.hashes import remember_hashes
from components.storage.layout import PARAMS, Layout
from components.storage.result_cache import remove_unfinished

MIN_FREE_BYTES = 200_000_000
UNEXPECTED = 1
SPINS = "3000"  # spins of a waiting OpenMP thread before it sleeps; OpenMP's default is 300,000
OF_RUST = re.compile(r"\(os error (\d+)\)")
log = logging.getLogger("llm2clip")


def start(stage: str, *, debug: bool = False) -> int:
    """Run one stage to its end and return the exit code (see `components.errors`).

    Args:
        stage: One of `layout.STAGES`.
        debug: Print the traceback of a failure as well.
    """
    log_to_stderr()
    work_folders: list[Path] = []

    def work() -> None:
        params, env = load_params(PARAMS), load_environment()
        layout = Layout(env.work_store)
        work_folders.append(layout.work(stage))
        _guarded_run(stage, params, env, layout)

    code, message = outcome_of(work, debug=debug)
    if message:
        log.error("%s: %s", stage, message)
    for folder in work_folders:
        if folder.is_dir():
            with suppress(OSError):  # the disk is full; the exit code still reports it
                write_json(folder / "exit.json", {"exit_code": code, "message": message})
    return code


def outcome_of(work: Callable[[], None], *, debug: bool = False) -> tuple[int, str]:
    """Call a function and return its exit code, with the message of a failure.

    Args:
        work: Function to call.
        debug: Print the traceback of a failure as well.
    """
    try:
        work()
    except Stopped as stopped:
        failure: BaseException = stopped
        code, message = (
            Stopped.exit_code,
            "stopped; finished work is kept, the next run continues from there",
        )
    except PipelineError as error:
        failure = error
        code, message = error.exit_code, str(error)
    except Exception as error:
        failure = error
        code, message = last_words(error)
    else:
        return 0, ""
    if debug:
        traceback.print_exception(failure)
    return code, message


def log_to_stderr() -> None:
    """Log our lines from INFO on, and warnings of all others: HTTP clients log each request at INFO."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    for name in ("llm2clip", "components"):
        logging.getLogger(name).setLevel(logging.INFO)


def _guarded_run(stage: str, params: Params, env: Environment, layout: Layout) -> None:
    work = layout.work(stage)
    work.mkdir(parents=True, exist_ok=True)
    die_with_parent()
    raise_on_stop_signals()
    with one_writer(work, stage):
        (work / "exit.json").unlink(missing_ok=True)
        remember_hashes(layout.hashes)
        prepare_libraries(env)
        gpus_in_use(env)  # fail on an absent device before any work
        resolved_params = resolved(params, stage, env.device)
        last_output = LastOutput(layout, stage, resolved_params)
        if last_output.restore():
            return
        _tidy(work, stage, layout)
        _preflight(work)
        costs = Costs()
        try:
            importlib.import_module(f"components.{stage}.stage").run(resolved_params, env)
            stop_server()
            remember_code(work, stage)
            costs.write(layout, stage)
            last_output.keep()
        finally:
            ignore_stop_signals()


def _tidy(work: Path, stage: str, layout: Layout) -> None:
    """Remove the reports, fetched files and half-written files of an earlier run."""
    remove(work / REJECTED)
    remove(work / FETCHED)
    remove(work / WORKED)
    remove(work / SPENT)
    remove_unfinished(work)
    for path in (layout.metrics(stage), layout.costs(stage)):
        for leftover in path.parent.glob(f".{path.name}.*.part"):
            remove(leftover)


def prepare_libraries(env: Environment) -> None:
    """Set the environment that libraries read on import: threads, memory, no progress bars, no telemetry.

    Processes that are started later inherit it.
    """
    # Threads spin while they wait for each other, which wastes time if they share a core. A step of two
    # threads took 67 ms alone and 430 beside another training; 138 and 165 if threads sleep at once
    # (OMP_WAIT_POLICY=passive); 78 and 225 after so many spins. A policy set by the user stays.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    if env.threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(env.threads)
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # Arrow's takes 30 MB more for two processes
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _preflight(work: Path) -> None:
    free = shutil.disk_usage(work).free
    if free < MIN_FREE_BYTES:
        raise InfrastructureError(
            f"disk of {work} has {free / 1e6:.0f} MB free; expected {MIN_FREE_BYTES / 1e6:.0f} MB: "
            "free space, or set LLM2CLIP_WORK_STORE to another disk"
        )


def last_words(error: Exception) -> tuple[int, str]:
    """Return exit code and message of a system error, or of a bug in this project."""
    if match := OF_RUST.search(str(error)):  # safetensors raises no OSError
        error = OSError(int(match[1]), os.strerror(int(match[1])))
    if not isinstance(error, OSError):
        return UNEXPECTED, f"unexpected {type(error).__name__}: {error} (--debug prints the traceback)"
    location = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            InfrastructureError.exit_code,
            f"disk full{location}: free space and rerun; nothing was damaged",
        )
    return InfrastructureError.exit_code, f"{error.strerror or error}{location}: fix it and rerun"
