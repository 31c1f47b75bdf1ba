"""Flow of the full run: one Prefect task per dvc.yaml stage, in a workspace; deployment llm2clip/full."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed, wait
from prefect.states import Cancelled, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task
from pydantic import Field

from components.errors import ConfigurationError, DataError, InfrastructureError, PipelineError
from components.storage.atomic import read_json
from components.storage.layout import PARAMS, STAGES
from flows.connection import exit_code, server_in_use
from flows.graph import between, upstream
from flows.parent_death import die_with
from flows.processes import Groups, GroupsStopped
from flows.run import PipelineRun, child_environment
from flows.verdict import Verdict, table
from flows.workspace import PRESETS, bring, claimed_workspace, fill

SIDE_BY_SIDE = 2  # stages at a time; more would only share the same cores
RETRY_DELAYS_SECONDS = [5.0, 20.0]  # of exit code 4; a cancelled run is killed after 30 seconds of waiting
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]

COMMITTED = str(PARAMS)
_shipped = sorted(path.stem for path in (Path(__file__).parents[1] / PRESETS).glob("*.yaml"))
# plain strings that the form shows as lists; a Literal would have to be written out
Preset = Annotated[str, Field(json_schema_extra={"enum": [COMMITTED, *_shipped]})]
Stage = Annotated[str, Field(json_schema_extra={"enum": list[Any](STAGES)})]


@flow(name="llm2clip", task_runner=ThreadPoolTaskRunner(max_workers=SIDE_BY_SIDE))  # type: ignore[arg-type]
def llm2clip(
    preset: Preset = COMMITTED,
    first_stage: Stage = STAGES[0],
    last_stage: Stage = STAGES[-1],
    push: bool = False,
) -> State[Any] | None:
    """Run the pipeline, or a part of it, on the committed code.

    Args:
        preset: Params to run, params.yaml as committed or a shipped preset.
        first_stage: Where to start; what lies before it must be up to date.
        last_stage: Where to end.
        push: Copy the outputs of each stage to the DVC remote as soon as it is done.
    """
    root, groups, log = Path.cwd(), Groups(), get_run_logger()
    logging.getLogger("prefect.flow_runs").addFilter(_is_unexpected)
    if runtime.deployment.id:
        die_with(os.getppid())  # without its worker a run could no longer be cancelled
    try:
        with claimed_workspace(root, _folder_name()) as folder:
            run = PipelineRun(folder, child_environment(root), groups)
            log.info("workspace %s, work store %s", folder, run.layout.work_store)
            fill(root, run, None if preset == COMMITTED else preset, log.warning)
            run.components("check", log.info)
            stages = between(run.graph(), first_stage, last_stage)
            _require_remote(run, push=push)
            bring(root, run, upstream(run.graph(), stages))
            verdicts = _reproduce(run, stages, push=push)
            if last_stage == STAGES[-1]:
                run.components("publish", log.info)
            _show_results(run, verdicts, log)
    except PipelineError as error:
        log.error("%s", error)
        return Failed(message=str(error), data=error)
    finally:
        groups.stop()
    return None


@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=lambda _task, _run, state: isinstance(state.data, InfrastructureError),
)
def run_stage(stage: str, run: PipelineRun, push: bool) -> Verdict | State[Any]:
    """Bring one stage up to date by DVC; show its log and its progress."""
    log = get_run_logger()
    try:
        verdict = run.reproduce(stage, lambda line: _log_line(log, line), _progress(run, stage))
        log.info("%s %s after %.0f s: %s", stage, verdict.what, verdict.seconds, "; ".join(verdict.why))
        create_markdown_artifact(
            table([verdict]), f"verdict-{_artifact_key(stage)}", f"What DVC did with {stage}"
        )
        if push:
            run.push(stage)
            log.info("%s pushed", stage)
    except GroupsStopped:
        return Cancelled(message=f"{stage} was stopped; the next run continues from its last checkpoint")
    except PipelineError as error:  # returned as a state; an exception would be shown with its traceback
        return Failed(message=str(error), data=error)
    return verdict


def _reproduce(run: PipelineRun, stages: list[str], *, push: bool) -> list[Verdict]:
    """Submit each stage when the stages it reads from are done, so a failure leaves none that never ran."""
    graph = run.graph()
    waiting, running, done = list(stages), dict[str, PrefectFuture[Any]](), dict[str, PrefectFuture[Any]]()
    while waiting or running:
        for stage in [name for name in waiting if graph[name].isdisjoint([*waiting, *running])]:
            waiting.remove(stage)
            step: Task[..., Any] = run_stage.with_options(
                name=stage, retries=len(RETRY_DELAYS_SECONDS), retry_delay_seconds=RETRY_DELAYS_SECONDS
            )
            upstream_runs = [done[name] for name in done if name in graph[stage]]  # the arrows in the UI
            running[stage] = step.submit(stage, run, push, wait_for=upstream_runs)
        future = next(as_completed(list(running.values())))
        future.wait()  # its state is known only then
        if not future.state.is_completed():
            run.groups.stop()  # the stages beside it keep their checkpoints
            wait(list(running.values()))
            future.result()  # raises the stage's own error
        stage = next(name for name, other in running.items() if other is future)
        done[stage] = running.pop(stage)
    return [done[stage].result() for stage in stages]


def _log_line(log: Log, line: str) -> None:
    level = next((name for name in ("ERROR", "WARNING") if line.startswith(f"{name}:")), "INFO")
    log.log(logging.getLevelNamesMapping()[level], line)


def _progress(run: PipelineRun, stage: str) -> Callable[[], None]:
    """Return a function that copies the stage's progress.json to a progress bar in the UI."""
    path = run.layout.work(stage) / "progress.json"
    last_written: list[float] = []  # when the file was last written
    bar_ids: list[Any] = []

    def update() -> None:
        try:
            written = path.stat().st_mtime
            if last_written == [written]:
                return
            last_written[:] = [written]
            progress = read_json(path)
        except (FileNotFoundError, DataError):
            return
        text = f"{progress['what']}: {progress['done']} of {progress['total']} {progress['unit']}"
        percent = min(100.0, 100.0 * progress["share"])
        if bar_ids:
            update_progress_artifact(bar_ids[0], percent, text)
        else:
            bar_ids.append(
                create_progress_artifact(percent, key=f"progress-{_artifact_key(stage)}", description=text)
            )

    return update


def _require_remote(run: PipelineRun, *, push: bool) -> None:
    _, lines = run.dvc("config", "core.remote") if push else (0, [""])
    if not lines:
        raise ConfigurationError(
            "push was asked for, and no default DVC remote is configured; "
            "`dvc remote add -d store s3://bucket/prefix`, commit .dvc/config, or run without push"
        )


def _show_results(run: PipelineRun, verdicts: list[Verdict], log: Log) -> None:
    layout = run.layout
    paths = {
        "report": layout.artifact("evaluate") / "report.html",
        "audit": layout.artifact("audit") / "report.html",
        "metrics": layout.root / "metrics",
        "release": layout.artifact("register"),
    }
    lines = [f"{name}: {path}" for name, path in paths.items() if path.exists()]
    lines.append(f"registry: {run.environment['LLM2CLIP_REGISTRY']}")
    for line in lines:
        log.info(line)
    text = "\n".join([table(verdicts), "", *(f"- {line}" for line in lines)])
    create_markdown_artifact(text, key="results", description="What ran, and where its results are")


def _folder_name() -> str:
    """Return a folder name for this flow run, the same when it is run again."""
    readable = re.sub(r"[^a-z0-9]+", "-", runtime.flow_run.name.lower()).strip("-")
    return f"{readable[:40]}-{str(runtime.flow_run.id)[-6:]}"


def _artifact_key(stage: str) -> str:
    return stage.replace("_", "-")


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Drop the traceback that Prefect's engine adds when a `PipelineError`, already logged, ended a run."""
    return not (record.exc_info and isinstance(record.exc_info[1], PipelineError))


def main() -> int:
    """Run the flow with its defaults and return the exit code.

    Raises:
        PipelineError: the server of `PREFECT_API_URL` cannot be used, or none is set and none can be started.
    """
    with server_in_use():
        state = llm2clip(return_state=True)
    error = state.result(raise_on_failure=False)
    return error.exit_code if isinstance(error, PipelineError) else int(not state.is_completed())


if __name__ == "__main__":
    sys.exit(exit_code(main))
