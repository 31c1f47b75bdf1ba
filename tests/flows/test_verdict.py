"""What the flow says about DVC's decisions."""

from __future__ import annotations

from typing import Any

import pytest

from flows.verdict import Verdict, reasons, table, verdict_of

PARAMS: dict[str, Any] = {
    "seed": 7,
    "tune_llm": {"encoding": {"pooling": "mean"}, "new": 1},
    "arms": [{"a": 1}],
}


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("Running stage 'audit':", "ran"),
        ("Stage 'audit' is cached - skipping run, checking out outputs", "restored"),
        ("Stage 'audit' didn't change, skipping", "skipped"),
    ],
)
def test_verdict_of_what_dvc_prints(line: str, verdict: str) -> None:
    assert verdict_of(["WARNING: some", line, "Updating lock file 'dvc.lock'"]) == verdict


def test_changed_keys_are_named_with_both_values() -> None:
    recorded = {
        "params": {"params.yaml": {"seed": 1, "tune_llm": {"encoding": {"pooling": "last"}, "old": 2}}}
    }
    changes = [{"changed deps": {"params.yaml": {"seed": "modified", "tune_llm": "modified"}}}]
    assert reasons(changes, recorded, PARAMS) == [
        "params.yaml seed 1 -> 7",
        "params.yaml tune_llm.encoding.pooling 'last' -> 'mean'",
        "params.yaml tune_llm.old is gone",
        "params.yaml tune_llm.new is new",
    ]


def test_a_key_inside_a_section_and_a_long_value() -> None:
    recorded = {"params": {"params.yaml": {"tune_llm.encoding": {"pooling": "last"}, "arms": [{"a": 1}] * 9}}}
    changes = [{"changed deps": {"params.yaml": {"tune_llm.encoding": "modified", "arms": "modified"}}}]
    assert reasons(changes, recorded, PARAMS) == [
        "params.yaml tune_llm.encoding.pooling 'last' -> 'mean'",
        "params.yaml arms changed",
    ]


def test_changed_files_and_commands_are_named() -> None:
    changes = [
        {"changed deps": {"components/audit/stage.py": "modified"}},
        {"changed outs": {"artifacts/audit": "deleted", "metrics/audit.json": "modified"}},
        "changed command",
    ]
    assert reasons(changes, {}, PARAMS) == [
        "components/audit/stage.py modified",
        "metrics/audit.json modified",
        "changed command",
    ]


def test_a_fresh_workspace_is_no_change() -> None:
    changes = [{"changed outs": {"artifacts/audit": "deleted"}}]
    assert reasons(changes, {}, PARAMS) == ["only its outputs are not here"]


def test_a_stage_without_a_result_says_so() -> None:
    changes = [{"changed deps": {"params.yaml": "new", "a.py": "modified"}}]
    assert reasons(changes, None, PARAMS) == ["no earlier result is recorded"]


def test_the_table_has_a_row_for_each_stage() -> None:
    text = table([Verdict("audit", "ran", ["a", "b"], 3.4), Verdict("register", "skipped", ["c"], 0.6)])
    assert text.split("\n")[2:] == ["| audit | ran | 3 | a; b |", "| register | skipped | 1 | c |"]
