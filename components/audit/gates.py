"""The gates: a figure of the data, its limit, and whether it passed, failed, or cannot be known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from components.audit.captions import Captions
from components.audit.duplicates import LEARNED, Duplicates
from components.settings.audit import Audit

SPLITS = (*LEARNED, "test")
Verdict = Literal["passed", "failed", "unknown"]


@dataclass(frozen=True)
class Gate:
    """One gate; `figure` is None where there is too little data to tell."""

    name: str
    figure: float | None
    limit: float
    wants: Literal["at_least", "at_most"]
    rows: int  # that the figure is taken from
    of: str  # what these rows are, for people
    param: str
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """Whether the figure keeps its limit."""
        if self.figure is None:
            return "unknown"
        kept = self.figure >= self.limit if self.wants == "at_least" else self.figure <= self.limit
        return "passed" if kept else "failed"

    def sentence(self) -> str:
        """Return figure and limit for people."""
        found = "unknown (too little data)" if self.figure is None else f"{self.figure:.4g}"
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
            "samples": self.samples,
        }

    def _wanted(self) -> str:
        return f"{self.wants.replace('_', ' ')} {self.limit:g}"


@dataclass(frozen=True)
class Images:
    """The images in one order: keys, and the split of each."""

    keys: Sequence[str]
    splits: Sequence[str]

    def rows_of(self, split: str) -> int:
        """Return how many images a split has."""
        return sum(one == split for one in self.splits)


def gates(
    images: Images, duplicates: Duplicates, captions: Captions, statuses: Sequence[str], limits: Audit
) -> list[Gate]:
    """Return all gates.

    Args:
        images: All images that download kept.
        duplicates: By row number of `images`.
        captions: Of all rows.
        statuses: What became of each image that download tried to get, as the ledgers have it.
        limits: The params section.
    """
    return [
        *(_enough_rows(split, images.rows_of(split), limits) for split in SPLITS),
        _success(statuses, limits),
        _duplicate_gate("exact_duplicates", images, duplicates.exact, None, limits),
        _duplicate_gate("near_duplicates", images, duplicates.near, "train", limits),
        _duplicate_gate("leaked", images, duplicates.leaked_tests, "test", limits),
        _repeated_captions(captions, limits),
    ]


def verdict_tree(found: list[Gate], limits: Audit) -> dict[str, Any]:
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


def explain(found: list[Gate], limits: Audit, report: Path) -> str:
    """Return the message of a failed audit: figures, limits, and where the report lies."""
    stops = [
        gate
        for gate in found
        if gate.verdict == "failed" or (gate.verdict == "unknown" and not limits.unknown_passes)
    ]
    more = f" (and {len(stops) - 1} more gates)" if len(stops) > 1 else ""
    return f"{stops[0].sentence()}{more}; see {report}, then mend the data or the limit"


def _enough_rows(split: str, rows: int, limits: Audit) -> Gate:
    figure = float(rows) if rows else None
    return Gate(f"rows_{split}", figure, limits.min_rows, "at_least", rows, "images", "audit.min_rows")


def _success(statuses: Sequence[str], limits: Audit) -> Gate:
    good = sum(status == "success" for status in statuses)
    share = good / len(statuses) if len(statuses) >= limits.min_rows else None
    limit = limits.min_success_share
    return Gate("success", share, limit, "at_least", len(statuses), "images", "audit.min_success_share")


def _duplicate_gate(
    name: str,
    images: Images,
    originals: dict[int, int],
    split: str | None,
    limits: Audit,
) -> Gate:
    param = f"max_{name.removesuffix('s')}_share"
    found = [row for row in sorted(originals) if split in (None, images.splits[row])]
    rows = images.rows_of(split) if split else len(images.keys)
    share = len(found) / rows if rows >= limits.min_rows else None
    samples = [
        {"key": images.keys[row], "like": images.keys[originals[row]]} for row in found[: limits.samples]
    ]
    of = f"{split} images" if split else "images"
    return Gate(name, share, getattr(limits, param), "at_most", rows, of, f"audit.{param}", samples)


def _repeated_captions(captions: Captions, limits: Audit) -> Gate:
    known = {
        column: found for column, found in captions.repeated_shares().items() if found[1] >= limits.min_rows
    }
    column, (share, rows) = max(known.items(), key=lambda item: item[1], default=("train", (None, 0)))
    limit = limits.max_repeated_caption_share
    of, param = f"{column} captions", "audit.max_repeated_caption_share"
    return Gate("repeated_captions", share, limit, "at_most", rows, of, param)
