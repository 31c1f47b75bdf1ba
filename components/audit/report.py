"""Audit report by Evidently: figures and distributions of the rows; equal data gives equal bytes."""

from __future__ import annotations

import math
import os
import re
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from components.audit.captions import Captions
from components.audit.curation.dropped import Dropped
from components.audit.curation.score_table import ScoreTable
from components.audit.images import SIZES, SPLITS, AuditImages
from components.audit.near_duplicates.duplicates import Duplicates

os.environ["DO_NOT_TRACK"] = "1"  # before the import: Evidently reports its use otherwise

import pandas as pd
import plotly.io  # type: ignore[import-untyped]
from evidently import DataDefinition, Dataset, Report
from evidently.metrics import CategoryCount, RowCount
from evidently.presets import ValueStats

from components.storage.atomic import write_bytes

RANDOM_ID = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{32}\b|(?<=metric_)[0-9a-f]{32}"
)
TOLD, SHOWN_CHARACTERS = 3, 200  # sample rows of a gate, and characters of each
# listed here because Evidently orders a column's values as a set, which differs between processes
CATEGORIES = {
    "split": ("train", "validation", "test"),
    "kind": ("image", "text"),
    "duplicate": ("exact", "near", "leaked"),
    "kept": ("no",),
}


def write_report(
    rows: list[dict[str, Any]], verdict: dict[str, Any], dropped: dict[str, int], folder: Path
) -> None:
    """Write report.html and report.json.

    Args:
        rows: One entry per row of data, with `CATEGORIES` and numbers; a missing number is omitted.
        verdict: Content of verdict.json; the page starts with a table of its gates.
        dropped: Number of dropped images by reason.
        folder: Output folder, which also gets gallery.html.
    """
    frame = pd.DataFrame(rows)
    numbers = [name for name in frame.columns if name not in CATEGORIES]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=list(CATEGORIES))
    counts = [CategoryCount(column=name, category=value) for name in CATEGORIES for value in CATEGORIES[name]]
    plotly.io.templates.default = None  # a plain page, rendered in a third less time
    report = Report([RowCount(), *counts, *(ValueStats(column=name) for name in numbers)])
    snapshot = report.run(Dataset.from_pandas(frame, data_definition=definition), None)
    page = snapshot.get_html_str(as_iframe=False).replace("<body>", f"<body>{_head(verdict, dropped)}", 1)
    write_bytes(folder / "report.html", _stable(page).encode())
    write_bytes(folder / "report.json", _stable(snapshot.json()).encode())


def _head(verdict: dict[str, Any], dropped: dict[str, int]) -> str:
    lines = [
        f"<tr><td>{escape(gate['name'])}</td><td>{_number(gate['figure'])}</td>"
        f"<td>{gate['wants'].replace('_', ' ')} {_number(gate['limit'])}</td>"
        f"<td>{gate['rows']} {escape(gate['of'])}</td><td><b>{gate['verdict']}</b></td>"
        f"<td>{_samples(gate['samples'])}</td></tr>"
        for gate in verdict["gates"]
    ]
    names = ("gate", "figure", "limit", "taken from", "verdict", "such as")
    head = f"<tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>"
    return (
        '<section style="font-family: sans-serif; margin: 1.5rem; overflow-x: auto">'
        f"<h1>Audit: {verdict['verdict']}</h1>"
        f'<table border="1" cellpadding="6" style="border-collapse: collapse">{head}{"".join(lines)}</table>'
        f"<p>Images that do not go on: {_reasons(dropped)}. "
        '<a href="gallery.html">Old and new captions side by side</a></p>'
        "</section>"
    )


def _reasons(dropped: dict[str, int]) -> str:
    return ", ".join(f"{escape(reason)} {count}" for reason, count in dropped.items()) or "none"


def _samples(samples: list[dict[str, Any]]) -> str:
    """Return the first failing rows as HTML; their content is untrusted and must be escaped."""
    lines = ["; ".join(f"{name} {value}" for name, value in sample.items()) for sample in samples[:TOLD]]
    return "<br>".join(f"<bdi>{escape(line[:SHOWN_CHARACTERS])}</bdi>" for line in lines)


def _number(figure: float | None) -> str:
    return "unknown" if figure is None else f"{figure:.4g}"


def _stable(text: str) -> str:
    """Replace Evidently's random ids by numbers, in order of appearance."""
    names: dict[str, str] = {}
    return RANDOM_ID.sub(lambda match: names.setdefault(match[0], f"{len(names):032x}"), text)


def described_rows(
    images: AuditImages,
    duplicates: Duplicates,
    dropped: Dropped,
    captions: Captions,
    score_table: ScoreTable,
    limit: int,
) -> list[dict[str, Any]]:
    """Return one entry for each row of data, or for every n-th row if there are more than `limit`.

    Args:
        images: All images.
        duplicates: Duplicates by row number of `images`.
        dropped: Dropped images.
        captions: Captions of all rows, with or without an image.
        score_table: Scores of all images.
        limit: Maximum number of entries.
    """
    step = -(-(len(images) + captions.texts) // limit)
    rows = range(0, len(images), step)
    sizes = images.sizes.take(np.array(rows, np.int64)).to_pylist()
    text_entry = {"kind": "text", "duplicate": "none", "kept": "yes"}
    words_by_row: dict[int, dict[str, float]] = {}
    texts: list[dict[str, Any]] = []
    for row, split, words in captions.every_nth(step):
        mean_words = {f"words of {kind}": mean for kind, mean in words.items()}
        if row is None:
            texts.append({"split": split, **text_entry, **mean_words})
        else:
            words_by_row[row] = mean_words
    entries = [
        {"split": SPLITS[images.splits[row]]}
        | _image_entry(row, size, duplicates, dropped)
        | words_by_row.get(row, {})
        | _scores(score_table, row)
        for row, size in zip(rows, sizes, strict=True)
    ]
    return entries + texts


def _image_entry(row: int, size: dict[str, int], duplicates: Duplicates, dropped: Dropped) -> dict[str, Any]:
    kinds = {"leaked": duplicates.leaked, "exact": duplicates.exact, "near": duplicates.near}
    width, height, size_bytes = (size[name] for name in SIZES)
    return {
        "kind": "image",
        "duplicate": next((kind for kind, rows in kinds.items() if row in rows), "none"),
        "kept": "no" if dropped.rows[row] else "yes",
        "width (pixels)": width,
        "height (pixels)": height,
        "aspect (width / height)": width / height,
        "size (bytes)": size_bytes,
    }


def _scores(score_table: ScoreTable, row: int) -> dict[str, float]:
    """Return an image's scores by column; a missing score is omitted."""
    kinds = {"similarity": score_table.similarity, "agreement": score_table.agreement}
    values = {
        f"{kind} of {column}": float(scores[row])
        for kind, columns in kinds.items()
        for column, scores in columns.items()
    }
    return {name: value for name, value in values.items() if math.isfinite(value)}
