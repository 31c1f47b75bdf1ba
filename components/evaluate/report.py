"""Write the report: one self-contained HTML page, the same bytes in every run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from components.evaluate.findings import RECALL, Findings, at_chance, best_of, compare
from components.evaluate.gallery import GallerySection
from components.evaluate.measure import ArmResult, Figure
from components.evaluate.plots import DIRECTIONS, loss_plot, recall_plot, validation_plot
from components.running.page import page_environment
from components.storage.atomic import write_bytes

TEMPLATE = "report.html.j2"
# mid tones, readable on white and on near-black; the subject has the first, the base CLIP the last
COLOURS = ("#2f7df6", "#8b7bd8", "#e08a1e", "#12a08a", "#d4537e", "#7c9c2f")
BASE_COLOUR = "#8a94a3"
SIDES = {"tuned": "tuned LLM, cached", "base": "untuned LLM, cached"}
DIRECTION_NAMES = {"text_to_image": "text → image", "image_to_text": "image → text"}


@dataclass(frozen=True)
class Cell:
    """A figure in a table."""

    figure: Figure
    is_best: bool


def write_report(path: Path, findings: Findings, gallery: list[GallerySection]) -> None:
    """Write the page."""
    environment = page_environment(Path(__file__).parent)
    environment.filters["percent"] = percent
    environment.filters["spaced"] = lambda name: name.replace("_", " ")
    environment.filters["count"] = count
    colours = _colours(findings)
    curves = validation_plot(findings.history, colours, findings.validation_recall_at)
    page = environment.get_template(TEMPLATE).render(
        findings=findings,
        comparisons=compare(findings),
        at_chance=at_chance(findings),
        colours=colours,
        arms={name: _describe(arm) for name, arm in findings.arms.items()},
        directions=DIRECTION_NAMES,
        headline=_table(findings, RECALL),
        recalls={k: _table(findings, f"recall_at_{k}") for k in sorted(findings.settings.recall_at)},
        zero_shot=_zero_shot(findings),
        captions={name: _marked(figures) for name, figures in findings.captions.items()},
        recall_plots={
            task.name: Markup(recall_plot(task.name, findings.arms, colours))  # noqa: S704 - our own SVG
            for task in findings.tasks
        },
        loss_plot=Markup(loss_plot(findings.history, colours)) if findings.history else None,  # noqa: S704
        validation_plot=Markup(curves) if curves else None,  # noqa: S704
        gallery=gallery,
    )
    write_bytes(path, page.encode())


def percent(share: float) -> str:
    """Return a share as percent with one decimal; a share too small for that as `<0.1`."""
    return "<0.1" if 0 < share < 0.0005 else f"{100 * share:.1f}"


def count(number: float) -> str:
    """Return a large number with a unit: 12,800; 1.5 M; 2.4 P (10 to the power of 15)."""
    for factor, unit in ((1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M")):
        if number >= factor:
            return f"{number / factor:.3g}{unit}"
    return f"{number:,.0f}"


def _colours(findings: Findings) -> dict[str, str]:
    arms = list(findings.arms)
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(arms)}
    return colours if findings.left_out else {**colours, arms[-1]: BASE_COLOUR}


def _describe(arm: ArmResult) -> dict[str, Any]:
    about = arm.about
    side = SIDES.get(about["text"], f"{about['text']}, cached")
    if about["text"] == "own":
        tokens = about.get("context_tokens")
        side = f"own text tower, {tokens} tokens" if tokens else "own text tower"
    if "trained" in about:
        side = "the base CLIP as it was" if about["trained"] else "the base CLIP: random, untrained"
    return {**about, "side": side}


def _table(findings: Findings, recall: str) -> dict[str, dict[tuple[str, str], Cell]]:
    """Return arm, then (task, direction), to cell."""
    table: dict[str, dict[tuple[str, str], Cell]] = {name: {} for name in findings.arms}
    for task in findings.tasks:
        for direction in DIRECTIONS:
            figures = {
                name: arm.retrieval[task.name][direction][recall] for name, arm in findings.arms.items()
            }
            for name, cell in _marked(figures).items():
                table[name][task.name, direction] = cell
    return table


def _zero_shot(findings: Findings) -> dict[str, dict[str, Cell]]:
    """Return task, then arm, to cell."""
    return {
        task.name: _marked({name: arm.zero_shot[task.name] for name, arm in findings.arms.items()})
        for task in findings.settings.zero_shot
    }


def _marked(figures: dict[str, Figure]) -> dict[str, Cell]:
    best = best_of(figures)
    return {name: Cell(figure, name == best) for name, figure in figures.items()}
