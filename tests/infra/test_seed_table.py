"""The README's table over seeds, on figures made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.seed_table import main


def metrics(value: float, arm: str = "clip") -> dict[str, Any]:
    found = {"recall_at_1": {"value": value}, "recall_at_10": {"value": value + 0.25}}
    figures = {way: found for way in ("text_to_image", "image_to_text")}
    paired = {way: {"value": value, "low": value - 0.5, "high": 1} for way in figures}
    return {
        "arms": {arm: {"retrieval": {"short": figures}}},
        "tasks": {"short": {}},
        "differences": {"ours": {arm: {"short": paired}}},
    }


def written(folder: Path, *trees: dict[str, Any]) -> list[str]:
    for number, tree in enumerate(trees):
        (folder / f"{number}.json").write_text(json.dumps(tree))
    return [str(folder / f"{number}.json") for number in range(len(trees))]


def test_each_cell_is_the_middle_seed_with_the_range(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(written(tmp_path, metrics(0.5), metrics(0.125), metrics(0.25))) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| arm | short T→I | short I→T |",
        "|---|---|---|",
        "| `clip` | 25.0 (12.5–50.0) | 25.0 (12.5–50.0) |",
        "",
        "| `ours` less | short T→I | short I→T |",
        "|---|---|---|",
        "| `clip` | +25.0 (-37.5) | +25.0 (-37.5) |",
    ]


def test_the_mean_of_another_recall(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = written(tmp_path, metrics(0.5), metrics(0.125), metrics(0.25))
    assert main(["--recall-at", "10", "--mean", *files]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| arm | short T→I | short I→T |",
        "|---|---|---|",
        "| `clip` | 54.2 (37.5–75.0) | 54.2 (37.5–75.0) |",
    ]
    assert main(["--recall-at", "5", *files]) == 2
    assert "recall_at_5 was not measured" in capsys.readouterr().err


def test_runs_of_other_presets_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(written(tmp_path, metrics(0.5), metrics(0.5, arm="other"))) == 2
    assert "differ in their seed alone" in capsys.readouterr().err
    odd = metrics(0.5)
    odd["differences"]["ours"]["another"] = odd["differences"]["ours"]["clip"]
    assert main(written(tmp_path, metrics(0.5), odd)) == 2
    assert "compare 2 sets of arms" in capsys.readouterr().err
    assert main([str(tmp_path / "none.json")]) == 3
