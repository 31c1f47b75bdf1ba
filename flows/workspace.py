"""Workspaces of runs: git worktrees of HEAD under runs/; the user's checkout is never touched."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import ConfigurationError
from components.storage.atomic import remove, write_bytes
from components.storage.layout import INPUTS, PARAMS
from flows.run import LOCK, PipelineRun, Say

RUNS = Path("runs")
KEPT_RUNS = 3  # finished runs to keep; their reports and releases stay readable
PRESETS = Path("presets")


@contextmanager
def claimed_workspace(root: Path, name: str) -> Iterator[Path]:
    """Yield the folder of a run, a worktree of HEAD below `root`; the same name gives the same folder again.

    During the block the folder counts as in use. Older finished runs are removed.

    Raises:
        ConfigurationError: `root` is not a git checkout with a commit, or another process uses this run.
    """
    folder = root / RUNS / name
    if not folder.is_dir():
        _git(root, "worktree", "prune")
        _git(root, "worktree", "add", "--quiet", "--detach", str(folder), "HEAD")
    with _in_use(folder) as is_free:
        if not is_free:
            raise ConfigurationError(f"{folder} is in use by another process: wait until it ends or stop it")
        _prune(root)
        yield folder


def fill(root: Path, run: PipelineRun, preset: str | None, say: Say) -> None:
    """Give a workspace the preset, and the checkout's dvc.lock, inputs and DVC cache.

    Args:
        root: The checkout.
        run: The run in the workspace.
        preset: Name of a preset; None keeps the committed params.yaml.
        say: Called with a message for each change of the checkout that is left out.

    Raises:
        ConfigurationError: the preset is not committed.
    """
    folder = run.folder
    if preset is not None:
        _apply_preset(folder, preset)
    elif _uncommitted(root, str(PARAMS)):
        say("params.yaml has edits that are not committed: this run takes the committed one")
    if changed := _uncommitted(root, "components", "dvc.yaml", str(PRESETS)):
        say(f"not committed, so not in this run: {', '.join(changed[:5])}")
    local = root / ".dvc" / "config.local"
    if local.is_file():
        shutil.copy(local, folder / ".dvc" / local.name)
    _, lines = PipelineRun(root, run.environment, run.groups).dvc("cache", "dir")
    run.dvc("cache", "dir", "--local", lines[-1])
    (folder / INPUTS).mkdir(exist_ok=True)
    for path in sorted((root / INPUTS).glob("*")):
        target = folder / INPUTS / path.name
        if not target.exists():
            target.symlink_to(path.resolve(), target_is_directory=path.is_dir())
    for lock in _locks(root, folder)[:1]:
        shutil.copy(lock, folder / LOCK)


def _apply_preset(folder: Path, preset: str) -> None:
    path = folder / PRESETS / f"{preset}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise ConfigurationError(f"no committed preset {preset}; expected one of {shipped}")
    write_bytes(folder / PARAMS, path.read_bytes())


def bring(root: Path, run: PipelineRun, stages: list[str]) -> None:
    """Check out stages that a run builds on but does not run, and check that they are up to date.

    Every available dvc.lock is tried: the checkout's, then those of the kept runs.

    Raises:
        ConfigurationError: one is not up to date; the message names it and what changed.
    """
    if not stages:
        return
    stale: dict[str, list[str]] = {}
    for lock in _locks(root, run.folder):
        shutil.copy(lock, run.folder / LOCK)
        run.dvc("checkout", "--force", *stages)
        changes = run.changes(stages)
        if not changes:
            return
        stale = stale or changes
    stage, why = next(iter(stale.items()), (stages[0], ["no run has made it yet"]))
    raise ConfigurationError(
        f"{stage} is not up to date ({'; '.join(why[:5])}) and stands before the first stage of this run; "
        f"start the run at {stage}"
    )


def _locks(root: Path, folder: Path) -> list[Path]:
    """Return the records of earlier results: the checkout's dvc.lock, then the kept runs', newest first."""
    runs = [other for other in _runs(root) if other != folder]
    return [folder / LOCK for folder in (root, *runs) if (folder / LOCK).is_file()]


def _prune(root: Path) -> None:
    finished = 0
    for folder in _runs(root):
        with _in_use(folder) as is_free:
            finished += is_free
            if is_free and finished > KEPT_RUNS:
                remove(folder)
    _git(root, "worktree", "prune")


def _runs(root: Path) -> list[Path]:
    """Return the workspaces, newest first."""
    folders = [path for path in (root / RUNS).glob("*") if (path / ".git").is_file()]
    return sorted(folders, key=lambda path: (path / ".git").stat().st_mtime_ns, reverse=True)


@contextmanager
def _in_use(folder: Path) -> Iterator[bool]:
    """Lock a workspace as in use; yield whether it was free."""
    lock_path = folder / ".work" / "in_use"
    lock_path.parent.mkdir(exist_ok=True)
    with lock_path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _uncommitted(root: Path, *paths: str) -> list[str]:
    lines = _git(root, "status", "--porcelain", "--", *paths).splitlines()
    return [line[3:] for line in lines]


def _git(root: Path, *arguments: str) -> str:
    # the user's hooks (DVC installs some) would act on the workspace
    command = ["git", "-c", f"core.hooksPath={os.devnull}", *arguments]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ConfigurationError(
            f"git {arguments[0]} failed in {root}: {result.stderr.strip()}; expected a checkout with a commit"
        )
    return result.stdout
