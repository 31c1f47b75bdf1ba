"""Run DVC commands in a run's workspace, each in its own process group."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from components.errors import (
    ConfigurationError,
    DataError,
    GateError,
    InfrastructureError,
    PipelineError,
)
from components.settings.environment import load_environment
from components.storage.atomic import read_json
from components.storage.layout import PARAMS, Layout
from flows.graph import Graph, read_graph
from flows.processes import Groups
from flows.verdict import Verdict, reasons, verdict_of

LOCK = Path("dvc.lock")
ERRORS = {error.exit_code: error for error in (ConfigurationError, DataError, InfrastructureError, GateError)}
EXITED = re.compile(r"exited with (\d+)$")
REFUSED = re.compile(  # errors that a retry does not change
    "NoSuchBucket|bucket does not exist|InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|Access Denied|"
    "Forbidden|ExpiredToken|Unable to locate credentials",
    re.IGNORECASE,
)
BUSY = "is being blocked by"  # another DVC process uses a path; --wait-for-lock does not wait for that
ADVICE = ("To track the changes", "git add ", "To enable auto staging", "dvc config core.", "Use `dvc push`")
Say = Callable[[str], None]


class PipelineRun:
    """One run of the pipeline.

    Args:
        folder: Its workspace, a DVC project.
        environment: Of its processes, with an absolute `LLM2CLIP_WORK_STORE`.
        groups: Where they are started.
    """

    def __init__(self, folder: Path, environment: dict[str, str], groups: Groups) -> None:
        self.folder = folder
        self.environment = environment
        self.groups = groups
        self._layout = Layout(Path(environment["LLM2CLIP_WORK_STORE"]), folder)

    @property
    def layout(self) -> Layout:
        """Paths of the workspace and of the work store."""
        return self._layout

    def graph(self) -> Graph:
        """Return the stages of the workspace's dvc.yaml."""
        return read_graph(self.folder / "dvc.yaml")

    def components(self, command: str, say: Say) -> None:
        """Run `python -m components COMMAND`.

        Raises:
            PipelineError: the command's own, with its message.
        """
        lines: list[str] = []
        status = self._start([sys.executable, "-m", "components", command], lines.append)
        if status:
            raise ERRORS.get(status, PipelineError)(" ".join(lines[-3:]) or f"{command} ended with {status}")
        for line in lines:
            say(line)

    def dvc(self, *arguments: str) -> tuple[int, list[str]]:
        """Run a DVC command; return its exit status and its lines."""
        lines: list[str] = []
        return self._dvc(lines.append, *arguments), lines

    def changes(self, stages: list[str]) -> dict[str, list[str]]:
        """Return why stages are not up to date, from `dvc status`; up-to-date stages are left out."""
        status, lines = self.dvc("status", "--json", *stages)
        answer = next((line for line in lines if line.startswith("{")), None)
        if status or answer is None:
            raise _dvc_error("dvc status", lines)
        params, recorded = _yaml(self.folder / PARAMS), _yaml(self.folder / LOCK).get("stages", {})
        entries: dict[str, list[Any]] = json.loads(answer)
        stale = [stage for stage in stages if stage in entries]
        return {stage: reasons(entries[stage], recorded.get(stage), params) for stage in stale}

    def reproduce(self, stage: str, say: Say, on_tick: Callable[[], None]) -> Verdict:
        """Bring one stage up to date.

        Raises:
            PipelineError: the stage's own, read from the exit.json it leaves, or DVC's.
        """
        start_seconds = time.monotonic()
        why = self.changes([stage]).get(stage, ["nothing changed"])
        work = self._layout.work(stage)
        for name in ("exit.json", "progress.json"):  # left by an earlier run
            (work / name).unlink(missing_ok=True)
        lines: list[str] = []

        def on_line(line: str) -> None:
            lines.append(line)
            if not line.strip().startswith(ADVICE):
                say(line)

        status = self._dvc(on_line, "repro", "--single-item", stage, on_tick=on_tick)
        if status:
            raise _stage_error(stage, work, lines)
        return Verdict(stage, verdict_of(lines), why, time.monotonic() - start_seconds)

    def push(self, stage: str) -> None:
        """Copy a stage's outputs and its entry of DVC's run cache to the remote.

        Raises:
            ConfigurationError: the remote refuses the credentials, or does not exist.
            InfrastructureError: the copy failed.
        """
        status, lines = self.dvc("push", "--run-cache", stage)
        if status:
            error_class = ConfigurationError if REFUSED.search(" ".join(lines)) else InfrastructureError
            raise error_class(f"dvc push {stage}: {_error(lines)}")

    def _dvc(self, on_line: Say, *arguments: str, on_tick: Callable[[], None] = lambda: None) -> int:
        dvc = Path(sys.executable).with_name("dvc")
        return self._start([str(dvc), "--wait-for-lock", *arguments], on_line, on_tick)

    def _start(self, command: list[str], on_line: Say, on_tick: Callable[[], None] = lambda: None) -> int:
        return self.groups.run(command, self.folder, self.environment, on_line, on_tick)


def child_environment(root: Path) -> dict[str, str]:
    """Return the environment of a run's processes; relative paths in it are resolved against `root`.

    Raises:
        ConfigurationError: a variable `LLM2CLIP_*` is unknown or has a bad value.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    settings = load_environment()
    paths = {"LLM2CLIP_WORK_STORE": str(settings.work_store), "LLM2CLIP_REGISTRY": settings.registry}
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CA_BUNDLE", "HF_HOME"):
        if name in environment:
            paths[name] = environment[name]
    for name, value in paths.items():
        environment[name] = value if "://" in value else str(root / Path(value).expanduser())
    bin_folder = str(Path(sys.executable).parent)  # `python` of the stages is this one
    environment["PATH"] = os.pathsep.join([bin_folder, environment.get("PATH", os.defpath)])
    return environment | {"PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1"}


def _stage_error(stage: str, work: Path, lines: list[str]) -> PipelineError:
    path = work / "exit.json"
    if path.is_file():
        exit_record = read_json(path)
        return ERRORS.get(exit_record["exit_code"], PipelineError)(f"{stage}: {exit_record['message']}")
    if match := EXITED.search(_error(lines)):  # the disk may have been too full for exit.json
        return ERRORS.get(int(match[1]), PipelineError)(f"{stage} ended with {match[1]}: its log says why")
    if any(line.startswith("Running stage ") for line in lines):
        return PipelineError(
            f"{stage} was killed before it could say why ({_error(lines)}); if by SIGKILL (-9), memory "
            "likely ran out: make its batches smaller; a new run continues from its last checkpoint"
        )
    return _dvc_error(stage, lines)


def _dvc_error(what: str, lines: list[str]) -> PipelineError:
    error_class = InfrastructureError if any(BUSY in line for line in lines) else ConfigurationError
    return error_class(f"{what}: {_error(lines)}")


def _error(lines: list[str]) -> str:
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    others = [line for line in lines if not line.startswith("WARNING: ")]
    return " ".join(errors[:2] or others[:2]) or "DVC ended without a message"


def _yaml(path: Path) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(path.read_text("utf-8")) or {}) if path.is_file() else {}
