"""The data stages killed before and after renames, by both signals: the next run ends with equal bytes.

A stage is killed in a process of its own, at a moment that is counted and not timed (`tests/kill_points`).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from components.errors import Stopped
from components.settings.params import Params, load_params
from components.storage.atomic import sha256_of
from components.storage.layout import Layout
from tests.clip_project import make_artifacts
from tests.conftest import ROOT
from tests.download.server import Server, body, serving
from tests.download.test_stage import jpeg

pytestmark = pytest.mark.integration

STAGES = ("download", "recaption", "audit")
ROWS, SHARD_ROWS = 36, 8
MOMENTS = 5  # of the long sweep, for each stage and signal, and before the last four renames
PATIENCE_SECONDS = 60
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: Stopped.exit_code}


@dataclass
class Project:
    """A folder with the data stages' inputs."""

    folder: Path

    def run(self, stage: str, at: int = 0, by: signal.Signals = signal.SIGKILL) -> tuple[int, int]:
        """Run a stage, to be killed at a moment; return its exit code and the moments there were."""
        counter = self.folder / "moments"
        counter.unlink(missing_ok=True)
        own = {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "kill_points"), str(ROOT)]),
            "KILL_COUNTER": str(counter), "KILL_AT": str(at), "KILL_BY": str(int(by)),
            "LLM2CLIP_PROCESSES": "2", "LLM2CLIP_THREADS": "1",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "components", stage],
            cwd=self.folder, env=os.environ | own, text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert at or done.returncode == 0, done.stderr[-4000:]
        self.wait_until_quiet()
        return done.returncode, counter.stat().st_size

    def wait_until_quiet(self) -> None:
        """Wait for the end of every process that works in this folder."""
        _, alive = psutil.wait_procs(
            [one for one in psutil.process_iter() if self._is_ours(one)], PATIENCE_SECONDS
        )
        assert not alive, [one.cmdline() for one in alive]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return Path(process.cwd()) == self.folder and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    def results(self, stage: str) -> dict[str, str]:
        """Return the hashes of what a stage made."""
        paths = [self.folder / "metrics" / f"{stage}.json", *(self.folder / "artifacts" / stage).rglob("*")]
        return {str(one.relative_to(self.folder)): sha256_of(one) for one in paths if one.is_file()}

    def leftovers(self) -> list[Path]:
        """Return what is half made, or made and replaced."""
        return [one for one in self.folder.rglob(".*") if one.suffix in (".part", ".old")]

    def before(self, stage: str, folder: Path) -> Project:
        """Return a copy in which this stage and later ones have not run."""
        shutil.copytree(self.folder / "inputs", folder / "inputs")
        shutil.copy(self.folder / "params.yaml", folder)
        for name in ("base_models", *STAGES[: STAGES.index(stage)]):
            shutil.copytree(self.folder / "artifacts" / name, folder / "artifacts" / name)
        return Project(folder)


@dataclass
class Undisturbed:
    """A project whose stages ran to their ends, and the moments that each had."""

    project: Project
    moments: dict[str, int]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with serving(Server()) as server:
        server.answers |= {f"/{number:02d}": body(jpeg(number)) for number in range(ROWS) if number != 20}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            put_inputs(server)
        project = Project(folder)
        yield Undisturbed(project, {stage: project.run(stage)[1] for stage in STAGES})


def put_inputs(server: Server) -> None:
    """Write a url list, base models and params in the current folder."""
    make_artifacts(Layout(Path(".work")))
    for path in Path("artifacts").iterdir():
        if path.name != "base_models":
            shutil.rmtree(path)
    rows = [
        {"id": f"{number:02d}", "link": server.url(f"/{number:02d}"), "words": f"picture {number}",
         "part": ("train", "train", "validation", "test")[number % 4]}
        for number in range(ROWS)
    ]  # fmt: skip
    Path("inputs/demo").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), "inputs/demo/web.parquet")
    params = swept(load_params(ROOT / "presets" / "smoke.yaml"), server)
    with Path("params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(params.model_dump(), file)


def swept(smoke: Params, server: Server) -> Params:
    """Return params of a url list, a captioner, scores, and a curation that compares embeddings."""
    tree: dict[str, Any] = smoke.model_dump()
    web = {
        "kind": "url_list", "name": "web", "path": "web.parquet", "sha256": None, "columns": None,
        "key_column": "id", "url_column": "link", "sha256_column": None, "split_column": "part",
        "split": None, "limit": None, "weight": None,
        "captions": [{"column": "words", "name": "alt", "language": "en"}],
    }  # fmt: skip
    tree["download"] |= {"sources": [web, tree["download"]["sources"][1]], "shard_rows": SHARD_ROWS}
    tree["download"]["fetch"] |= {
        "allowed_ports": [server.port], "allowed_private_hosts": ["127.0.0.1"], "deadline_seconds": 60.0,
    }  # fmt: skip
    splits = ["train", "validation", "test"]
    take = {"source": "alt", "column": "again", "take": "first", "splits": splits}
    tree["recaption"] |= {
        "captioners": [{"kind": "columns", "name": "mine", "columns": [take]}],
        "scores": {"columns": None, "batch_size": 4, "precision": "fp32"},
    }
    tree["audit"]["curation"]["near_images"] = {"min_cosine": 1.0, "max_rows": 1000}
    tree["audit"] |= {"unknown_passes": True, "min_success_share": 0.5, "min_rows": 1}
    return Params.model_validate(tree)


def check_rerun(undisturbed: Undisturbed, project: Project, stage: str) -> None:
    """Run a killed stage to its end, and compare all that it made."""
    project.run(stage)
    assert project.results(stage) == undisturbed.project.results(stage)
    assert project.leftovers() == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_twice_ends_with_equal_bytes_and_leaves_nothing(
    undisturbed: Undisturbed, tmp_path: Path, stage: str
) -> None:
    project = undisturbed.project.before(stage, tmp_path / "project")
    at = undisturbed.moments[stage] // 4
    for by, moment in ((signal.SIGKILL, at), (signal.SIGTERM, at + 1)):
        code, seen = project.run(stage, moment, by)
        assert (code, seen >= moment) == (CODES[by], True)
        assert not (project.folder / "artifacts" / stage).exists()
    check_rerun(undisturbed, project, stage)


def test_a_kill_before_the_metrics_are_in_place_leaves_nothing(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """The last renames are those of the artifact, metrics, the code that made them, costs, the exit code."""
    project = undisturbed.project.before("download", tmp_path / "project")
    assert project.run("download", undisturbed.moments["download"] - 7)[0] == CODES[signal.SIGKILL]
    (left,) = project.leftovers()
    assert left.parent == project.folder / "metrics"
    check_rerun(undisturbed, project, "download")


@pytest.mark.slow
@pytest.mark.timeout(1800)  # of audit, five minutes on two free cores
@pytest.mark.parametrize("by", CODES, ids=lambda by: by.name)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_at_any_moment_ends_with_equal_bytes_and_leaves_nothing(
    undisturbed: Undisturbed, tmp_path: Path, stage: str, by: signal.Signals
) -> None:
    total = undisturbed.moments[stage]
    moments = {1 + number * (total - 1) // (MOMENTS - 1) for number in range(MOMENTS)}
    for at in sorted(moments | {total - 7, total - 5, total - 3, total - 1}):
        project = undisturbed.project.before(stage, tmp_path / f"{at}")
        code, _ = project.run(stage, at, by)
        is_settled = at >= total - 1 and by is signal.SIGTERM  # all that is left to do is to say so
        assert code == (0 if is_settled else CODES[by])
        check_rerun(undisturbed, project, stage)
        shutil.rmtree(project.folder)
