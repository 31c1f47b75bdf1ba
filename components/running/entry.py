"""The one way a stage is started: params checked, one writer, signals, exit code and costs left behind."""

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
SPINS = "3000"  # looks of a waiting thread of OpenMP before it sleeps; its own default is 300,000
OF_RUST = re.compile(r"\(os error (\d+)\)")
log = logging.getLogger("llm2clip")


def start(stage: str, *, debug: bool = False) -> int:
    """Run one stage to its end and return the exit code (see `components.errors`).

    Args:
        stage: One of `layout.STAGES`.
        debug: Print the traceback of a failure as well.
    """
    log_to_stderr()
    works: list[Path] = []

    def work() -> None:
        params, env = load_params(PARAMS), load_environment()
        layout = Layout(env.work_store)
        works.append(layout.work(stage))
        _guarded_run(stage, params, env, layout)

    code, message = outcome_of(work, debug=debug)
    if message:
        log.error("%s: %s", stage, message)
    for folder in works:
        if folder.is_dir():
            with suppress(OSError):  # a full disk; the exit code still says it
                write_json(folder / "exit.json", {"exit_code": code, "message": message})
    return code


def outcome_of(work: Callable[[], None], *, debug: bool = False) -> tuple[int, str]:
    """Do work and return its exit code, with what is to be said about a failure.

    Args:
        work: What is done.
        debug: Print the traceback of a failure as well.
    """
    try:
        work()
    except Stopped as stopped:
        failure: BaseException = stopped
        code, message = (
            Stopped.exit_code,
            "stopped; what is finished is kept, the next run goes on from there",
        )
    except PipelineError as fault:
        failure = fault
        code, message = fault.exit_code, str(fault)
    except Exception as error:
        failure = error
        code, message = last_words(error)
    else:
        return 0, ""
    if debug:
        traceback.print_exception(failure)
    return code, message


def log_to_stderr() -> None:
    """Own lines and everyone's warnings: an HTTP client tells every request at INFO."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    for own in ("llm2clip", "components"):
        logging.getLogger(own).setLevel(logging.INFO)


def _guarded_run(stage: str, params: Params, env: Environment, layout: Layout) -> None:
    work = layout.work(stage)
    work.mkdir(parents=True, exist_ok=True)
    die_with_parent()
    raise_on_stop_signals()
    with one_writer(work, stage):
        (work / "exit.json").unlink(missing_ok=True)
        _tidy(work, stage, layout)
        _preflight(work)
        remember_hashes(layout.hashes)
        prepare_libraries(env)
        gpus_in_use(env)  # a device that is not there is told before anything is done
        costs = Costs()
        try:
            settled = resolved(params, stage, env.device)
            importlib.import_module(f"components.{stage}.stage").run(settled, env)
            stop_server()
            remember_code(work, stage)
            costs.write(layout, stage)
        finally:
            ignore_stop_signals()


def _tidy(work: Path, stage: str, layout: Layout) -> None:
    """Remove what an earlier run has left: what it said it did, what it fetched, and what is half written."""
    remove(work / REJECTED)
    remove(work / FETCHED)
    remove(work / WORKED)
    remove(work / SPENT)
    remove_unfinished(work)
    for path in (layout.metrics(stage), layout.costs(stage)):
        for leftover in path.parent.glob(f".{path.name}.*.part"):
            remove(leftover)


def prepare_libraries(env: Environment) -> None:
    """Set what libraries read when they are imported: threads, memory, no bars in a log, no telemetry.

    The processes that are started later inherit it.
    """
    # Threads that wait for each other spin, which is lost time where they share a core. A step of two threads
    # took 67 ms alone and 430 beside another training; asleep at once (OMP_WAIT_POLICY=passive) 138 and 165;
    # after so many looks 78 and 225. A policy that the user has set stays.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    if env.threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(env.threads)
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # its own keeps 30 MB more of two processes
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _preflight(work: Path) -> None:
    free = shutil.disk_usage(work).free
    if free < MIN_FREE_BYTES:
        raise InfrastructureError(
            f"disk of {work} has {free / 1e6:.0f} MB free, {MIN_FREE_BYTES / 1e6:.0f} MB are needed: "
            "free some or point LLM2CLIP_WORK_STORE elsewhere"
        )


def last_words(error: Exception) -> tuple[int, str]:
    """Return exit code and message of an error of the system, or of a bug of ours (the last defence)."""
    if found := OF_RUST.search(str(error)):  # safetensors has no OSError
        error = OSError(int(found[1]), os.strerror(int(found[1])))
    if not isinstance(error, OSError):
        return UNEXPECTED, f"unexpected {type(error).__name__}: {error} (--debug prints the traceback)"
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            InfrastructureError.exit_code,
            f"disk full{where}: free some space and run again; nothing was damaged",
        )
    return InfrastructureError.exit_code, f"{error.strerror or error}{where}: mend it and run again"
