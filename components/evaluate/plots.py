"""Plots: tables for `dvc plots`, and inline SVG for the report, the same bytes in every run."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from components.evaluate.measure import ArmResult
from components.storage.atomic import write_bytes

INK = "#123457"  # replaced by the page's text colour, in light and in dark
MUTED = "#123458"
PERCENT = 100
STYLE = {
    "svg.hashsalt": "llm2clip",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "figure.facecolor": "none",  # the page's, in light and in dark
    "axes.facecolor": "none",
    "legend.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": MUTED,
    "grid.alpha": 0.18,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
DIRECTIONS = {"text_to_image": 1.0, "image_to_text": 0.45}  # opacity of its bars

History = dict[str, list[dict[str, float]]]
MEAN = "mean"  # of recall on the validation split, all tasks, both ways


def write_plot_tables(folder: Path, arms: dict[str, ArmResult], history: History) -> None:
    """Write recall.csv, recall_at_1.csv, loss.csv and validation.csv."""
    recall = list(_recall_lines(arms))
    _write(folder / "recall.csv", ["arm", "task", "direction", "k", "value", "low", "high", "chance"], recall)
    first = [
        [f"{task} {direction}: {arm}", value] for arm, task, direction, k, value, *_ in recall if k == "1"
    ]
    _write(folder / "recall_at_1.csv", ["figure", "value"], first)
    for name, column in (("loss", "loss"), ("validation", MEAN)):
        lines = [
            [arm, int(line["step"]), line[column]]
            for arm, points in history.items()
            for line in points
            if column in line
        ]
        _write(folder / f"{name}.csv", ["arm", "step", column], lines)


def recall_plot(task: str, arms: dict[str, ArmResult], colours: dict[str, str]) -> str:
    """Return recall@1 of each arm on a task, both ways, with intervals and chance, as SVG."""
    names = list(arms)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.7, 0.5 + 0.46 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        for offset, (direction, opacity) in zip((-0.2, 0.2), DIRECTIONS.items(), strict=True):
            recalls = [arms[name].retrieval[task][direction]["recall_at_1"] for name in names]
            values = [PERCENT * recall["value"] for recall in recalls]
            errors = [
                [PERCENT * (recall["value"] - recall["low"]) for recall in recalls],
                [PERCENT * (recall["high"] - recall["value"]) for recall in recalls],
            ]
            positions = [row + offset for row in range(len(names))]
            axes.barh(positions, values, 0.36, color=[colours[name] for name in names], alpha=opacity)
            axes.errorbar(values, positions, xerr=errors, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)
        chance = PERCENT * arms[names[0]].retrieval[task]["text_to_image"]["recall_at_1"]["chance"]
        axes.axvline(chance, color=INK, linestyle=(0, (2, 2)), linewidth=1)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="both", length=0)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("recall at 1, percent")
        return _svg(figure, f"recall-{task}")


def loss_plot(history: History, colours: dict[str, str]) -> str:
    """Return the loss of each arm by step, as SVG."""
    return _curves(history, colours, "loss", "contrastive loss", "loss", 1)


def validation_plot(history: History, colours: dict[str, str], recall_at: int) -> str | None:
    """Return each arm's mean recall on the validation split by step, as SVG; None if nothing was measured."""
    measured = {arm: lines for arm, lines in history.items() if any(MEAN in line for line in lines)}
    if not measured:
        return None
    return _curves(measured, colours, MEAN, f"mean recall at {recall_at}, percent", "validation", PERCENT)


def _curves(
    history: History, colours: dict[str, str], column: str, label: str, name: str, scale: float
) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.0, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for arm, lines in history.items():
            points = [(line["step"], scale * line[column]) for line in lines if column in line]
            axes.plot(*zip(*points, strict=True), color=colours[arm], linewidth=1.8, label=arm)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.tick_params(axis="both", length=0)
        axes.legend(frameon=False)
        return _svg(figure, name)


def _svg(figure: Figure, name: str) -> str:
    """Return an inline SVG without a date, with ids of its own and the page's text colours."""
    file = StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (xmlns(:xlink)?|version|width|height)="[^"]*"', "", text, count=5)
    text = re.sub(r'(?<= id=")|(?<=url\(#)|(?<=href="#)', f"{name}-", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = text.replace(INK, "var(--ink)").replace(MUTED, "var(--muted)")
    return text.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)


def _recall_lines(arms: dict[str, ArmResult]) -> Iterator[list[Any]]:
    for arm, result in arms.items():
        for task, directions in result.retrieval.items():
            for direction, recalls in directions.items():
                for name, figure in recalls.items():
                    values = [figure[part] for part in ("value", "low", "high", "chance")]
                    yield [arm, task, direction, name.rsplit("_", 1)[1], *values]


def _write(path: Path, header: list[str], lines: list[list[Any]]) -> None:
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    write_bytes(path, file.getvalue().encode())
