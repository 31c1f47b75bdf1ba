"""Code that changed is code that runs, and nothing else runs again; through DVC, on the smoke preset."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from components.running.last_output import LAST
from components.storage.layout import STAGES
from tests.project import Project


def outputs(project: Project) -> dict[str, str]:
    """Return the hash of each stage's artifact, as DVC has it."""
    lock = YAML(typ="safe").load((project.folder / "dvc.lock").read_text("utf-8"))
    return {stage: lock["stages"][stage]["outs"][0]["md5"] for stage in STAGES}


def results(project: Project) -> dict[str, set[tuple[str, int]]]:
    """Return by stage the finished results in the work store, and when each was made."""
    found: dict[str, set[tuple[str, int]]] = {stage: set() for stage in STAGES}
    work = project.folder / ".work"
    for manifest in work.rglob("manifest.json"):
        path = manifest.parent.relative_to(work)
        if path.parts[1] != LAST:
            found[path.parts[0]].add((path.as_posix(), manifest.stat().st_mtime_ns))
    return found


def edit(project: Project, path: str, old: str, new: str) -> None:
    file = project.folder / "components" / path
    text = file.read_text("utf-8")
    assert old in text, path
    file.write_text(text.replace(old, new, 1), "utf-8")


def new_results(project: Project, before: dict[str, set[tuple[str, int]]]) -> set[str]:
    """Return which kinds of results were made since: `train_clip/arms`."""
    now = results(project)
    made = {path for stage in STAGES for path, _ in now[stage] - before[stage]}
    return {re.sub(r"/(pieces/)?", "/", path, count=1).rsplit("/", 1)[0] for path in made}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # six runs of the smoke preset
def test_edits_make_again_what_they_should(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.run("dvc", "repro")
    first, made = outputs(project), results(project)

    edit(project, "ml/losses/contrastive.py", '"""', '"""Said in other words. ')
    run = project.run("dvc", "repro")
    assert run.stdout.count("the last output is back") == 7
    assert outputs(project) == first and results(project) == made

    edit(project, "embed_captions/embedding.py", 'log.warning("earlier', 'log.warning("Earlier')
    for file in [*(project.folder / "components").rglob("*.py"), project.folder / "dvc.yaml"]:
        text = file.read_text("utf-8")
        text = text.replace("components.ml.adapter", "components.ml.text_adapter")
        file.write_text(text.replace("components/ml/adapter.py", "components/ml/text_adapter.py"), "utf-8")
    (project.folder / "components/ml/adapter.py").rename(project.folder / "components/ml/text_adapter.py")
    told = project.run("dvc", "repro").stdout
    assert told.count("Running stage") >= 4  # DVC sees files that changed
    assert outputs(project) == first and results(project) == made

    edit(
        project,
        "recaption/filters/gates.py",
        "    if len(text) > gates",
        '    if len(text) % 5 == 0:\n        return "too_long"\n    if len(text) > gates',
    )
    project.run("dvc", "repro")
    gated = outputs(project)
    assert gated["recaption"] != first["recaption"] and gated["base_models"] == first["base_models"]
    assert not {
        kind for kind in new_results(project, made) if kind.startswith(("recaption/tiny", "base", "down"))
    }

    made = results(project)
    edit(
        project,
        "ml/losses/contrastive.py",
        "- positives.flatten()).mean()) / 2",
        "- positives.flatten()).mean()) / 3",
    )
    project.run("dvc", "repro")
    assert outputs(project)["train_clip"] != gated["train_clip"]
    kinds = new_results(project, made)
    assert {"base_models/clip", "train_clip/arms"} <= kinds
    assert not kinds & {"base_models/llm", "download/shards", "audit/fingerprints"}

    made, before = results(project), outputs(project)
    edit(project, "ml/text/encoder.py", "/ weights.sum(1)", "/ (1 + weights.sum(1))")
    project.run("dvc", "repro")
    after = outputs(project)
    assert after["embed_captions"] != before["embed_captions"]
    assert {
        stage for stage in ("download", "base_models", "recaption") if after[stage] != before[stage]
    } == set()
