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
    """Train the model of a stage with others; return the exit code, and leave the reason of a failure."""
    log_to_stderr()
    number = int(os.environ["RANK"])

    def work() -> None:
        end_with_parent()
        raise_on_stop_signals()
        params, env = load_params(PARAMS), load_environment()
        prepare_libraries(env)
        folder = Layout(env.work_store).work(stage)
        folder.mkdir(parents=True, exist_ok=True)
        # the stage holds the lock where it started this; where torchrun was started by hand, nobody does yet
        is_alone = number == 0 and os.environ.get("TORCHELASTIC_RUN_ID") != stage
        writer = one_writer(folder, stage) if is_alone else nullcontext()
        with writer, process_group(env), training_for(folder):
            settled = resolved(params, stage, env.device)  # by now this process has a GPU of its own
            importlib.import_module(f"components.{stage}.stage").train(settled, env)

    code, message = outcome_of(work)
    if message:
        log.error("%s, process %d: %s", stage, number, message)
        folder = said_in(Layout(load_environment().work_store).work(stage))
        write_json(folder / f"{number:05d}.json", {"exit_code": code, "message": message})
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
