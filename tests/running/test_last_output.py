"""A stage whose code changed without effect gets its last output back, and runs otherwise."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from components.cli.forget import forget
from components.evaluate import stage as evaluate
from components.running.entry import start
from components.running.output import output, write_metrics
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import read_json
from components.storage.layout import Layout
from components.storage.manifest import Entry, write_manifest

PIPELINE = """
stages:
  evaluate:
    cmd: none
    deps:
      - inputs/${download.inputs}
      - artifacts/download/shards
      - artifacts/audit/verdict.json
      - components/code
    params: [seed, evaluate]
    outs: [artifacts/evaluate]
"""
CODE = 'import os\n\n\ndef doubled(number):\n    """Double."""\n    return 2 * number\n'


@pytest.fixture
def runs(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The workspace with what evaluate reads, and a list that grows by one with each run of it."""
    (workspace / "dvc.yaml").write_text(PIPELINE)
    (workspace / "components" / "code").mkdir(parents=True)
    (workspace / "components" / "code" / "double.py").write_text(CODE)
    (workspace / "inputs" / "demo" / "list.csv").write_text("url\n")
    for path, text in (
        ("download/shards/0.tar", "tar"),
        ("download/texts/0", "a"),
        ("audit/verdict.json", "{}"),
    ):
        file = workspace / "artifacts" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for stage in ("download", "audit"):
        write_manifest(workspace / "artifacts" / stage)
    done: list[int] = []

    def run(params: Params, env: Environment) -> None:
        done.append(params.seed)
        with output(Layout(env.work_store), "evaluate") as out:
            (out.folder / "plots").mkdir()
            (out.folder / "plots" / "recall.csv").write_text(f"{len(done)}\n")
            out.rows["plots/recall.csv"] = 1
        write_metrics(Layout(env.work_store), "evaluate", {"runs": len(done)})

    monkeypatch.setattr(evaluate, "run", run)
    assert start("evaluate") == 0
    return done


def rerun() -> None:
    """Run evaluate as DVC does: without its output."""
    shutil.rmtree("artifacts/evaluate")
    Path("metrics/evaluate.json").unlink()
    assert start("evaluate") == 0


def write_code(text: str) -> None:
    Path("components/code/double.py").write_text(text)


def test_a_docstring_restores_output_metrics_and_costs(runs: list[int]) -> None:
    costs = Path("costs/evaluate.json").read_bytes()
    manifest = Path("artifacts/evaluate/manifest.json").read_bytes()
    Path("costs/evaluate.json").unlink()
    write_code(CODE.replace("Double.", "Twice the number.") + "# a comment\n")
    rerun()
    assert runs == [7]
    assert Path("artifacts/evaluate/plots/recall.csv").read_text() == "1\n"
    assert Path("artifacts/evaluate/manifest.json").read_bytes() == manifest
    assert read_json(Path("metrics/evaluate.json")) == {"runs": 1}
    assert Path("costs/evaluate.json").read_bytes() == costs
    rerun()
    assert runs == [7]


def add_text(name: str, text: str) -> Callable[[], None]:
    """Return a function that writes a file of another artifact, with its manifest, or of the inputs."""

    def write() -> None:
        path = Path(name)
        path.write_text(text)
        if path.parts[0] == "artifacts":
            write_manifest(Path(*path.parts[:2]))

    return write


def change_seed() -> None:
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("seed: 7", "seed: 8", 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda: write_code(CODE.replace("2 *", "3 *")),
        lambda: write_code(CODE.replace("import os", "import os.path as os")),
        lambda: Path("components/code/double.py").rename("components/code/twice.py"),
        add_text("components/code/report.html.j2", "<p>"),
        add_text("artifacts/download/shards/0.tar", "another"),
        add_text("artifacts/audit/verdict.json", "{ }"),
        add_text("inputs/demo/list.csv", "url\nhttp://a/1.jpg\n"),
        change_seed,
        lambda: forget(Layout(Path(".work")), "evaluate", [], None),
    ],
)
def test_what_decides_the_output_runs_the_stage(runs: list[int], change: Callable[[], None]) -> None:
    change()
    rerun()
    assert len(runs) == 2
    assert Path("artifacts/evaluate/plots/recall.csv").read_text() == "2\n"


def test_what_the_stage_does_not_read_changes_nothing(runs: list[int]) -> None:
    add_text("artifacts/download/texts/0", "others")()
    rerun()
    assert len(runs) == 1


def test_a_damaged_last_output_is_made_again(runs: list[int]) -> None:
    file = Path(".work/evaluate/last/artifact/plots/recall.csv")
    file.unlink()
    file.write_text("9\n")
    rerun()
    assert len(runs) == 2


def test_a_damaged_input_is_told(runs: list[int]) -> None:
    Path("artifacts/download/shards/0.tar").write_text("rat")
    assert start("evaluate") == 3
    assert "0.tar is damaged" in read_json(Path(".work/evaluate/exit.json"))["message"]
    assert len(runs) == 1


def test_a_stage_with_files_in_a_bucket_runs(runs: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(params: Params, env: Environment) -> None:
        runs.append(params.seed)
        with output(Layout(env.work_store), "evaluate") as out:
            out.known.append(Entry(f"s3://bucket/shards/00000-{'a' * 64}.tar", 1, "a" * 64, 1))
        write_metrics(Layout(env.work_store), "evaluate", {})

    monkeypatch.setattr(evaluate, "run", run)
    write_code(CODE.replace("2 *", "3 *"))
    rerun()
    rerun()
    assert len(runs) == 3
