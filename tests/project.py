"""A copy of the project in a folder of its own, as a user would have it after `git clone`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_SECONDS = 60


def copy_working_tree(folder: Path, preset: str) -> None:
    """Copy what git would hold of the working tree, with a preset as params.yaml; no record of any run."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
    shutil.copy(ROOT / "presets" / f"{preset}.yaml", folder / "params.yaml")


class Project:
    """The working tree's files under git and DVC, with a preset as params.yaml.

    Args:
        folder: Where to put it; must not exist.
        preset: A name of presets/.
    """

    def __init__(self, folder: Path, preset: str = "smoke") -> None:
        self.folder = folder
        copy_working_tree(folder, preset)
        for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "A user's project"]):
            self.run("git", "-c", "user.name=user", "-c", "user.email=user@localhost", *arguments)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of `make run`, on one thread."""
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": "",
            "SHELL": "/bin/sh",  # that of cron, containers and CI; often dash, which does not exec by itself
            "LLM2CLIP_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
            "DO_NOT_TRACK": "1",
        }

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; standard error is part of stdout."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout[-6000:]
        return done

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, text=True, process_group=0,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def processes(self) -> list[psutil.Process]:
        """Return the processes that work in this folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()) == self.folder and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def wait_until_quiet(self) -> None:
        """Wait for the end of every process that works in this folder."""
        _, alive = psutil.wait_procs(self.processes(), timeout=PATIENCE_SECONDS)
        assert not alive, [process.cmdline() for process in alive]

    def outputs(self) -> dict[str, str]:
        """Return the hash of every output, as dvc.lock has it."""
        from ruamel.yaml import YAML

        lock = YAML(typ="safe").load((self.folder / "dvc.lock").read_text("utf-8"))
        return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}
