"""Gate results and the verdict: passed, failed or unknown."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from components.settings.audit import Audit

Verdict = Literal["passed", "failed", "unknown"]
TOO_LITTLE = "too little data"
TOLD = 2  # samples in an error message; verdict.json has more


@dataclass(frozen=True)
class GateResult:
    """The result of one gate; `figure` is None if it cannot be computed, for the reason `unknown`."""

    name: str
    figure: float | None
    limit: float
    wants: Literal["at_least", "at_most"]
    rows: int  # rows that the figure is computed from
    of: str  # description of these rows, for messages
    param: str
    samples: list[dict[str, Any]] = field(default_factory=list)
    unknown: str = TOO_LITTLE

    @property
    def verdict(self) -> Verdict:
        """Whether the figure is within its limit."""
        if self.figure is None:
            return "unknown"
        is_within = self.figure >= self.limit if self.wants == "at_least" else self.figure <= self.limit
        return "passed" if is_within else "failed"

    def sentence(self) -> str:
        """Return figure and limit as a sentence for messages."""
        figure = f"unknown ({self.unknown})" if self.figure is None else f"{self.figure:.4g}"
        return f"{self.name} is {figure} of {self.rows} {self.of}; {self.param} wants {self._requirement()}"

    def tree(self) -> dict[str, Any]:
        """Return the gate's entry in verdict.json."""
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

    def _requirement(self) -> str:
        return f"{self.wants.replace('_', ' ')} {self.limit:g}"


def verdict_tree(gate_results: list[GateResult], limits: Audit) -> dict[str, Any]:
    """Return the content of verdict.json: whether training may start, and why."""
    failed = [gate.name for gate in gate_results if gate.verdict == "failed"]
    unknown = [gate.name for gate in gate_results if gate.verdict == "unknown"]
    return {
        "passed": not failed and (limits.unknown_passes or not unknown),
        "verdict": "failed" if failed else "unknown" if unknown else "passed",
        "failed": failed,
        "unknown": unknown,
        "gates": [gate.tree() for gate in gate_results],
    }


def explain(gate_results: list[GateResult], limits: Audit, report: Path) -> str:
    """Return the error message of a failed audit: figures, limits, failing rows and report path."""
    blocking = [
        gate
        for gate in gate_results
        if gate.verdict == "failed" or (gate.verdict == "unknown" and not limits.unknown_passes)
    ]
    other_sentences = "".join(f"; {gate.sentence()}" for gate in blocking[1:])
    samples = ", ".join(ascii(next(iter(sample.values()))) for sample in blocking[0].samples[:TOLD])
    such_as = f", such as {samples}" if samples else ""
    return (
        f"{blocking[0].sentence()}{such_as}{other_sentences}; "
        f"see {report}, then correct the data or the limit"
    )
