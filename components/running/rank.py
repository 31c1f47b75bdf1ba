"""One training process: `python -m components.running.rank STAGE`, started by torchrun."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from contextlib import nullcontext

from components.running.entry import log_to_stderr, outcome_of, prepare_libraries
from components.running.lock import one_writer, training_for
from components.running.precision import resolved
from components.running.ranks import process_group, said_in
from components.running.signals import end_with_parent, raise_on_stop_signals
from components.settings.environment import load_environment
from components.settings.params import load_params
from components.storage.atomic import write_json
from components.storage.layout import PARAMS, Layout

log = logging.getLogger("llm2clip")


def main(stage: str) -> int:
    """Train the model of a stage with other processes; return the exit code, write the error of a failure."""
    log_to_stderr()
    process_rank = int(os.environ["RANK"])

    def work() -> None:
        end_with_parent()
        raise_on_stop_signals()
        params, env = load_params(PARAMS), load_environment()
        prepare_libraries(env)
        folder = Layout(env.work_store).work(stage)
        folder.mkdir(parents=True, exist_ok=True)
        # a stage that starts this process holds the lock; if torchrun was started by hand, nobody does
        is_alone = process_rank == 0 and os.environ.get("TORCHELASTIC_RUN_ID") != stage
        writer = one_writer(folder, stage) if is_alone else nullcontext()
        with writer, process_group(env), training_for(folder):
            resolved_params = resolved(params, stage, env.device)  # by now this process has its own GPU
            importlib.import_module(f"components.{stage}.stage").train(resolved_params, env)

    code, message = outcome_of(work)
    if message:
        log.error("%s, process %d: %s", stage, process_rank, message)
        folder = said_in(Layout(load_environment().work_store).work(stage))
        write_json(folder / f"{process_rank:05d}.json", {"exit_code": code, "message": message})
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
