"""Describe what DVC decided about a stage, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RAN, RESTORED, SKIPPED = "ran", "restored", "skipped"
ABSENT = object()
NOT_HERE = ("changed outs", "deleted")  # true of every stage in a fresh workspace


@dataclass(frozen=True)
class Verdict:
    """DVC's verdict on one stage.

    `what` is RAN, RESTORED (DVC's cache had the outputs of the same inputs) or SKIPPED (nothing changed).
    """

    stage: str
    what: str
    why: list[str]
    seconds: float


def verdict_of(lines: list[str]) -> str:
    """Return the verdict from what `dvc repro --single-item` printed."""
    if any(line.startswith("Running stage ") for line in lines):
        return RAN
    if any("is cached - skipping run" in line for line in lines):
        return RESTORED
    return SKIPPED


def reasons(changes: list[Any], recorded: dict[str, Any] | None, params: dict[str, Any]) -> list[str]:
    """Return what changed since a stage's last result.

    Args:
        changes: The stage's entry of `dvc status --json`.
        recorded: The stage's entry of dvc.lock; None where it has none.
        params: params.yaml as it is now.
    """
    if recorded is None:
        return ["no earlier result is recorded"]
    changes_found: list[str] = []
    for change in changes:
        if isinstance(change, str):
            changes_found.append(change)
            continue
        for kind, files in change.items():
            for path, state in files.items():
                if isinstance(state, dict):
                    old = recorded.get("params", {}).get(path, {})
                    changes_found += [
                        line for key in state for line in _param_changes(key, old.get(key, ABSENT), params)
                    ]
                elif (kind, state) != NOT_HERE:
                    changes_found.append(f"{path} {state}")
    return changes_found or ["only its outputs are not here"]


def table(verdicts: list[Verdict]) -> str:
    """Return the verdicts as a Markdown table."""
    rows = [
        f"| {verdict.stage} | {verdict.what} | {verdict.seconds:.0f} | {'; '.join(verdict.why)} |"
        for verdict in verdicts
    ]
    return "\n".join(["| stage | verdict | seconds | why |", "|---|---|---|---|", *rows])


def _param_changes(key: str, old: Any, params: dict[str, Any]) -> list[str]:  # noqa: ANN401 - a YAML tree
    new: Any = params
    for part in key.split("."):
        new = new.get(part, ABSENT) if isinstance(new, dict) else ABSENT
    return list(_differences(f"params.yaml {key}", old, new))


def _differences(name: str, old: Any, new: Any) -> list[str]:  # noqa: ANN401 - YAML trees
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in _differences(f"{name}.{key}", old.get(key, ABSENT), new.get(key, ABSENT))
        ]
    if old is ABSENT:
        return [f"{name} is new"]
    if new is ABSENT:
        return [f"{name} is gone"]
    short = [f"{value!r}" for value in (old, new)]
    if max(map(len, short)) > 40:  # a list of sources, say: the name is enough
        return [f"{name} changed"]
    return [f"{name} {short[0]} -> {short[1]}"]
