"""Findings of the report: an arm counts as better only where the paired interval excludes zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.evaluate.measure import ArmResult, Figure
from components.running.held_out import TaskCaptions
from components.settings.evaluate import Evaluate

Difference = dict[str, float]  # value, low, high of the subject's recall at 1 minus a control's, -1..1

RECALL = "recall_at_1"
FORWARD = "text_to_image"
TUNING = ("tuned", "base")  # texts of two arms that differ in the tuning of the LLM


@dataclass(frozen=True)
class Findings:
    """All that the report shows; the first arm is its subject, the others are controls."""

    preset: str
    seed: int
    settings: Evaluate
    rows: dict[str, Any]
    tasks: list[TaskCaptions]
    arms: dict[str, ArmResult]
    captions: dict[str, dict[str, Figure]]
    differences: dict[str, dict[str, dict[str, Difference]]]  # by control, task and direction
    history: dict[str, list[dict[str, float]]]
    left_out: str | None  # why the base CLIP is missing, where it embeds no texts
    equal_cost: str | None  # what arms of different steps have in common

    @property
    def subject(self) -> str:
        """The arm that the others are compared with."""
        return next(iter(self.arms))

    def first_recall(self, arm: str, task: str) -> Figure:
        """Return text-to-image recall at 1."""
        return self.arms[arm].retrieval[task][FORWARD][RECALL]

    def untuned_control(self) -> str | None:
        """Return the control that reads the untuned LLM, if the subject reads the tuned one."""
        texts = {name: arm.about.get("text") for name, arm in self.arms.items()}
        return next((name for name in self.controls if (texts[self.subject], texts[name]) == TUNING), None)

    def of_steps(self) -> list[tuple[int, list[str]]]:
        """Return each number of training steps, most first, and the arms that were trained for it."""
        steps = {name: arm.about["steps"] for name, arm in self.arms.items() if "steps" in arm.about}
        numbers = sorted(set(steps.values()), reverse=True)
        return [(number, [name for name in steps if steps[name] == number]) for number in numbers]

    @property
    def validation_recall_at(self) -> int:
        """The k of the recall that was measured while arms trained."""
        measured = (arm.about.get("validation") for arm in self.arms.values())
        return next((int(validation["recall_at"]) for validation in measured if validation), 1)

    @property
    def controls(self) -> list[str]:
        """The other arms."""
        return list(self.arms)[1:]

    def best_control(self, task: str) -> str:
        """Return the control with the highest text-to-image recall at 1; the first of equals."""
        return max(self.controls, key=lambda arm: float(self.first_recall(arm, task)["value"]))


@dataclass(frozen=True)
class ArmComparison:
    """The subject and its best control on one task."""

    task: str
    language: str
    captions: int
    images: int
    subject: Figure
    control_name: str
    control: Figure
    difference: Difference
    verdict: str  # better, worse, open
    untuned: Figure | None  # of the arm with the untuned LLM


def compare(findings: Findings) -> list[ArmComparison]:
    """Compare the subject with its best control, task by task; no comparison where there is no control."""
    comparisons = []
    untuned = findings.untuned_control()
    for task in findings.tasks if findings.controls else ():
        control = findings.best_control(task.name)
        subject_recall, control_recall = (
            findings.first_recall(arm, task.name) for arm in (findings.subject, control)
        )
        difference = findings.differences[control][task.name][FORWARD]
        verdict = "better" if difference["low"] > 0 else "worse" if difference["high"] < 0 else "open"
        comparisons.append(
            ArmComparison(
                task=task.name,
                language=task.captions[0].language,
                captions=len(task.captions),
                images=len(task.images),
                subject=subject_recall,
                control_name=control,
                control=control_recall,
                difference=difference,
                verdict=verdict,
                untuned=findings.first_recall(untuned, task.name) if untuned else None,
            )
        )
    return comparisons


def best_of(figures: dict[str, Figure]) -> str | None:
    """Return the name whose whole interval lies above all other intervals, if there is one."""
    for name, figure in figures.items():
        if all(figure["low"] > other["high"] for key, other in figures.items() if key != name):
            return name if len(figures) > 1 else None
    return None


def at_chance(findings: Findings) -> dict[str, list[str]]:
    """Return for each arm the measurements whose interval does not lie above chance."""
    weak_by_arm: dict[str, list[str]] = {}
    for name, arm in findings.arms.items():
        weak = []
        for task, directions in arm.retrieval.items():
            below = [key for key, recalls in directions.items() if not recalls[RECALL]["beats_chance"]]
            if below:
                which = "both ways" if len(below) == len(directions) else below[0].replace("_", " ")
                weak.append(f"{task.replace('_', ' ')} ({which})")
        weak += [
            f"zero-shot {task.replace('_', ' ')}"
            for task, figure in arm.zero_shot.items()
            if not figure["beats_chance"]
        ]
        if weak:
            weak_by_arm[name] = weak
    return weak_by_arm
