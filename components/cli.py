"""The command line: run a stage, check the set-up, change the preset, publish a release."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from components.faults import Fault
from components.storage.layout import PARAMS, STAGES

app = typer.Typer(add_completion=False, no_args_is_help=True, help="LLM2CLIP, from download to registry.")


def _add_stage(stage: str) -> None:
    def command(
        debug: Annotated[bool, typer.Option(help="Print the traceback of a failure.")] = False,
    ) -> None:
        from components.running.entry import start

        sys.exit(start(stage, debug=debug))

    app.command(stage, help=f"Run the stage {stage} by itself.", rich_help_panel="Stages")(command)


for _stage in STAGES:
    _add_stage(_stage)


@app.command()
def check() -> None:
    """Check params, environment, disk, inputs and models before anything runs."""

    def work() -> list[str]:
        from components.running.check import check
        from components.settings.environment import load_environment
        from components.settings.params import load_params

        return check(load_params(PARAMS), load_environment())

    _say(work)


@app.command()
def use(
    preset: Annotated[str, typer.Argument(help="A file of presets/ without .yaml.")],
    force: Annotated[bool, typer.Option(help="Overwrite edits of params.yaml.")] = False,
) -> None:
    """Put a shipped preset in params.yaml."""

    def work() -> list[str]:
        from components.running.presets import use_preset

        changed = use_preset(preset, force=force)
        return [f"params.yaml is {'now ' if changed else ''}the preset {preset}"]

    _say(work)


@app.command()
def publish() -> None:
    """Copy the release of artifacts/register to the registry, if it is not there yet."""

    def work() -> list[str]:
        from components.register.publish import publish
        from components.settings.environment import load_environment
        from components.storage.layout import Layout

        logging.basicConfig(level=logging.INFO, format="%(message)s")  # whether anything had to be copied
        env = load_environment()
        return [f"registered {publish(Layout(env.work_store), env)}"]

    _say(work)


@app.command()
def results() -> None:
    """Say where the report, the metrics and the release are."""

    def work() -> list[str]:
        from components.running.results import results
        from components.settings.environment import load_environment
        from components.storage.layout import Layout

        return results(Layout(load_environment().work_store))

    _say(work)


def _say(work: Callable[[], list[str]]) -> None:
    """Print the lines of a short command, or its fault in one line with the fault's exit code."""
    try:
        for line in work():
            typer.echo(line)
    except Fault as fault:
        typer.echo(str(fault), err=True)
        sys.exit(fault.exit_code)
    except OSError as error:
        from components.running.entry import last_words

        code, message = last_words(error)
        typer.echo(message, err=True)
        sys.exit(code)


def main() -> None:
    """Entry point of `llm2clip` and `python -m components`."""
    app()
