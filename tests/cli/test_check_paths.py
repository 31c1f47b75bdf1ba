"""What params name below inputs and is missing, or would change unseen: all of it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.cli.check_paths import check_paths
from components.cli.problems import Problem, refuse
from components.errors import ConfigurationError
from components.settings.params import Params
from components.storage.manifest import write_manifest
from tests.sources.test_input_paths import everything


def test_all_that_is_missing_or_unseen_is_told_at_once(workspace: Path, smoke: Params) -> None:
    inputs = Path("inputs/demo")
    for name in ("texts.csv", "fetched.json", "dataset.json", "photos/1.jpg", "models/llm/config.json"):
        (inputs / name).parent.mkdir(parents=True, exist_ok=True)
        (inputs / name).touch()
    (inputs / "coco").symlink_to(workspace)
    told = check_paths(everything(smoke), inputs)
    there = "inputs/demo holds coco, dataset.json, fetched.json, models, photos"
    missing = [
        ("inputs/demo/captions.json not found", there),
        ("no file fits inputs/demo/shards/*.tar", there),
        ("inputs/demo/words.csv not found", there),
        ("inputs/demo/models/minilm not found", "inputs/demo/models holds llm"),
        ("inputs/demo/safe.safetensors not found", there),
        ("inputs/demo/run/tuned not found", there),
        ("inputs/demo/run/summary.json not found", there),
    ]
    assert [problem.text for problem in told[:-2]] == [
        f"{what}; {beside}: put it there or fix the path" for what, beside in missing
    ]
    first = len(smoke.download.sources)
    assert [problem.location for problem in told[-2:]] == [
        ("download", "sources", first + 1, "images"),
        ("download", "sources", first + 3, "images"),  # null: all of inputs, in which the link is
    ]
    assert all(problem.text.startswith("inputs/demo/coco is a link to a folder") for problem in told[-2:])


def test_columns_of_an_earlier_run_are_looked_up_in_its_manifest(workspace: Path, smoke: Params) -> None:
    tree = smoke.model_dump()
    near = {"embeddings": "run/tuned", "column": "shrt", "min_cosine": 0.9, "max_rows": 9}
    tree["audit"]["curation"]["near_captions"] = near
    inputs, run = Path("inputs/demo"), Path("inputs/demo/run")
    for name in ("tuned/short/00000.safetensors", "tuned/short/00000.parquet", "base/shrt/00000.safetensors"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).touch()
    (problem,) = check_paths(Params.model_validate(tree), inputs)
    assert problem.location[-1] == "embeddings"
    assert problem.text.startswith("inputs/demo/run holds no manifest.json that can be read; expected an")
    write_manifest(run)
    (problem,) = check_paths(Params.model_validate(tree), inputs)
    assert problem.location[-1] == "column"
    assert problem.text == (
        "inputs/demo/run/tuned has no embeddings of column shrt; there are short: did you mean short?"
    )
    tree["audit"]["curation"]["near_captions"]["column"] = "short"
    assert check_paths(Params.model_validate(tree), inputs) == []


def test_each_problem_is_a_line_with_that_of_its_param(workspace: Path) -> None:
    problems = [
        Problem(("download", "sources", 0, "kind"), "is odd"),
        Problem(("evaluate", "gallery_rows"), "is odd as well"),
        Problem(("download", "sources", 0, "kind"), "is odd"),
        Problem(("download", "sources", 9, "kind"), "is not in the file"),
    ]
    lines = Path("params.yaml").read_text().splitlines()
    kind, section = (1 + lines.index(line) for line in ("    - kind: scenes", "  sources:"))
    with pytest.raises(ConfigurationError) as fault:
        refuse(problems)
    assert str(fault.value).splitlines()[0] == f"params.yaml:{kind}: download.sources.0.kind: is odd"
    assert len(str(fault.value).splitlines()) == 3
    assert str(fault.value).splitlines()[2].startswith(f"params.yaml:{section}: download.sources.9")
    Path("params.yaml").unlink()
    with pytest.raises(ConfigurationError, match=r"^download\.sources\.0\.kind: is odd$"):
        refuse(problems[:1])
    refuse([])
