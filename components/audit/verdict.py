"""Gate result: a figure, its limit, and whether it passed, failed or is unknown."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from components.settings.audit import Audit

Verdict = Literal["passed", "failed", "unknown"]
TOO_LITTLE = "too little data"
TOLD = 2  # samples in a message; verdict.json has more


@dataclass(frozen=True)
class GateResult:
    """One gate; `figure` is None where it cannot be known, for the reason `unknown`."""

    name: str
    figure: float | None
    limit: float
    wants: Literal["at_least", "at_most"]
    rows: int  # that the figure is taken from
    of: str  # what these rows are, for people
    param: str
    samples: list[dict[str, Any]] = field(default_factory=list)
    unknown: str = TOO_LITTLE

    @property
    def verdict(self) -> Verdict:
        """Whether the figure keeps its limit."""
        if self.figure is None:
            return "unknown"
        kept = self.figure >= self.limit if self.wants == "at_least" else self.figure <= self.limit
        return "passed" if kept else "failed"

    def sentence(self) -> str:
        """Return figure and limit for people."""
        found = f"unknown ({self.unknown})" if self.figure is None else f"{self.figure:.4g}"
        return f"{self.name} is {found} of {self.rows} {self.of}; {self.param} wants {self._wanted()}"

    def tree(self) -> dict[str, Any]:
        """Return the gate as verdict.json holds it."""
        return {
            "name": self.name,
            "figure": self.figure,
            "limit": self.limit,
            "wants": self.wants,
            "rows": self.rows,
            "of": self.of,
            "param": self.param,
            "verdict": self.verdict,
            "passed": {"passed": True, "failed": False, "unknown": None}[self.verdict],
            "why": self.unknown if self.figure is None else None,
            "samples": self.samples,
        }

    def _wanted(self) -> str:
        return f"{self.wants.replace('_', ' ')} {self.limit:g}"


def verdict_tree(found: list[GateResult], limits: Audit) -> dict[str, Any]:
    """Return verdict.json: whether training may start, and why."""
    failed = [gate.name for gate in found if gate.verdict == "failed"]
    unknown = [gate.name for gate in found if gate.verdict == "unknown"]
    return {
        "passed": not failed and (limits.unknown_passes or not unknown),
        "verdict": "failed" if failed else "unknown" if unknown else "passed",
        "failed": failed,
        "unknown": unknown,
        "gates": [gate.tree() for gate in found],
    }


def explain(found: list[GateResult], limits: Audit, report: Path) -> str:
    """Return the message of a failed audit: figures, limits, failing rows, and where the report lies."""
    stops = [
        gate
        for gate in found
        if gate.verdict == "failed" or (gate.verdict == "unknown" and not limits.unknown_passes)
    ]
    more = "".join(f"; {gate.sentence()}" for gate in stops[1:])
    rows = ", ".join(ascii(next(iter(sample.values()))) for sample in stops[0].samples[:TOLD])
    such = f", such as {rows}" if rows else ""
    return f"{stops[0].sentence()}{such}{more}; see {report}, then correct the data or the limit"
