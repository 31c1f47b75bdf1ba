"""Command line: run a stage, check the set-up, plan, change the preset, publish a release."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from components.errors import PipelineError
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
        from llm2clip import check

        return check()

    _print_lines(work)


@app.command()
def use(
    preset: Annotated[str, typer.Argument(help="A file of presets/ without .yaml.")],
    force: Annotated[bool, typer.Option(help="Overwrite edits of params.yaml.")] = False,
) -> None:
    """Put a shipped preset in params.yaml."""

    def work() -> list[str]:
        from components.cli.params import use_preset

        changed = use_preset(preset, force=force)
        return [f"params.yaml is {'now ' if changed else ''}the preset {preset}"]

    _print_lines(work)


@app.command()
def params(
    resolved: Annotated[bool, typer.Option(help="Every value, defaults too.")] = False,
    diff: Annotated[str | None, typer.Option(help="What differs from a revision, e.g. HEAD~1.")] = None,
) -> None:
    """Print params.yaml, all of its values with their defaults, or what differs from another revision."""

    def work() -> list[str]:
        from components.cli.params import show_params

        return show_params(is_resolved=resolved, revision=diff)

    _print_lines(work)


@app.command()
def plan(
    preset: Annotated[
        str, typer.Argument(help="A file of presets/ without .yaml; params.yaml if none.")
    ] = "",
    cores: Annotated[
        int | None, typer.Option(min=1, help="Cores of one machine; default: this one's.")
    ] = None,
    memory_gb: Annotated[
        float | None, typer.Option(min=0.1, help="Memory of one machine; default: this one's.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of one machine.")] = 0,
    network_mbit: Annotated[
        float | None, typer.Option(min=1, help="Megabits a second of one machine.")
    ] = None,
    machines: Annotated[int, typer.Option(min=1)] = 1,
    captions_per_second: Annotated[
        float | None, typer.Option(min=1e-6, help="Speed of a captioner on one GPU.")
    ] = None,
    gpu_tflops: Annotated[
        float | None, typer.Option(min=1e-6, help="Speed of one GPU, to estimate a model's.")
    ] = None,
    llm_billions: Annotated[
        float | None, typer.Option(min=1e-6, help="Weights of the LLM, if its folder is absent.")
    ] = None,
) -> None:
    """Estimate rows, bytes, hours and memory of each stage, with the source of each figure."""

    def work() -> list[str]:
        from components.cli.params import preset_path
        from llm2clip import plan

        return plan(
            preset_path(preset) if preset else PARAMS,
            cores=cores,
            memory_gb=memory_gb,
            gpus=gpus,
            network_mbit=network_mbit,
            machines=machines,
            captions_per_second=captions_per_second,
            gpu_tflops=gpu_tflops,
            llm_billions=llm_billions,
        )

    _print_lines(work)


@app.command()
def accept(
    stage: Annotated[str, typer.Argument(help="Stage whose code changed but not its results.")],
) -> None:
    """Keep the cached results of a stage whose code changed; without it they are computed again."""

    def work() -> list[str]:
        from components.settings.environment import load_environment
        from components.storage.computed import accept
        from components.storage.layout import Layout

        changed = accept(Layout(load_environment().work_store).work(stage), stage)
        if not changed:
            return [f"{stage}: no code changed since it last ran; nothing to accept"]
        return [
            f"{stage}: kept the results of the former code: {', '.join(changed)}",
            f"next: dvc repro {stage}",
        ]

    _print_lines(work)


@app.command()
def forget(
    stage: Annotated[str, typer.Argument(help="Stage whose results are made or fetched again.")],
    results: Annotated[list[str] | None, typer.Argument(help="Names of results; default: all.")] = None,
    shard: Annotated[str | None, typer.Option(help="Only this shard, e.g. 00003.")] = None,
    fetched: Annotated[bool, typer.Option(help="Fetched results as well.")] = False,
) -> None:
    """Delete cached results of a stage from the work store."""

    def work() -> list[str]:
        from components.cli.forget import forget
        from components.settings.environment import load_environment
        from components.storage.layout import Layout

        return forget(Layout(load_environment().work_store), stage, results or [], shard, fetched=fetched)

    _print_lines(work)


@app.command()
def verify() -> None:
    """Read every file of artifacts/ and compare it with its manifest, even if verified before."""

    def work() -> list[str]:
        from components.cli.verify import verify
        from components.running.entry import log_to_stderr
        from components.settings.environment import load_environment
        from components.storage.layout import Layout

        log_to_stderr()
        return verify(Layout(load_environment().work_store))

    _print_lines(work)


@app.command()
def publish() -> None:
    """Copy the release of artifacts/register to the registry, if it is not there yet."""

    def work() -> list[str]:
        from components.register.publish import publish
        from components.settings.environment import load_environment
        from components.storage.layout import Layout

        logging.basicConfig(level=logging.INFO, format="%(message)s")  # says whether anything was copied
        env = load_environment()
        return [f"registered {publish(Layout(env.work_store), env)}"]

    _print_lines(work)


@app.command()
def results() -> None:
    """Print where the report, the metrics and the release are."""

    def work() -> list[str]:
        from components.cli.results import results
        from components.settings.environment import load_environment
        from components.storage.layout import Layout

        return results(Layout(load_environment().work_store))

    _print_lines(work)


def _print_lines(work: Callable[[], list[str]]) -> None:
    """Print the lines of a short command; on an error, print it in one line and exit with its code."""
    try:
        for line in work():
            typer.echo(line)
    except PipelineError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        from components.running.entry import last_words

        code, message = last_words(error)
        typer.echo(message, err=True)
        sys.exit(code)


def main() -> None:
    """Entry point of `llm2clip` and `python -m components`."""
    app()
