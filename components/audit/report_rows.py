"""Rows of the audit's report: split, kind, size, caption length, audited or not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from components.audit.captions import Captions
from components.audit.curation.dropped import Dropped
from components.audit.curation.score_table import ScoreTable
from components.audit.images import SIZES, SPLITS, Images
from components.audit.near_duplicates.duplicates import Duplicates


def described_rows(
    images: Images,
    duplicates: Duplicates,
    dropped: Dropped,
    captions: Captions,
    scored: ScoreTable,
    limit: int,
) -> list[dict[str, Any]]:
    """Return one entry for each row of data, or for every n-th where there are more than `limit`.

    Args:
        images: All.
        duplicates: By row number of `images`.
        dropped: Images that do not go on.
        captions: Of all rows, with or without an image.
        scored: Of all images.
        limit: Entries at most.
    """
    step = -(-(len(images) + captions.texts) // limit)
    rows = range(0, len(images), step)
    sizes = images.sizes.take(np.array(rows, np.int64)).to_pylist()
    nothing = {"kind": "text", "duplicate": "none", "kept": "yes"}
    words_of: dict[int, dict[str, float]] = {}
    texts: list[dict[str, Any]] = []
    for row, split, words in captions.every_nth(step):
        named = {f"words of {kind}": mean for kind, mean in words.items()}
        if row is None:
            texts.append({"split": split, **nothing, **named})
        else:
            words_of[row] = named
    entries = [
        {"split": SPLITS[images.splits[row]]}
        | _image_entry(row, size, duplicates, dropped)
        | words_of.get(row, {})
        | _scores(scored, row)
        for row, size in zip(rows, sizes, strict=True)
    ]
    return entries + texts


def _image_entry(row: int, size: dict[str, int], duplicates: Duplicates, dropped: Dropped) -> dict[str, Any]:
    kinds = {"leaked": duplicates.leaked, "exact": duplicates.exact, "near": duplicates.near}
    width, height, size_bytes = (size[name] for name in SIZES)
    return {
        "kind": "image",
        "duplicate": next((kind for kind, found in kinds.items() if row in found), "none"),
        "kept": "no" if dropped.rows[row] else "yes",
        "width (pixels)": width,
        "height (pixels)": height,
        "aspect (width / height)": width / height,
        "size (bytes)": size_bytes,
    }


def _scores(scored: ScoreTable, row: int) -> dict[str, float]:
    """Return an image's scores by column; a score it lacks is left out."""
    kinds = {"similarity": scored.similarity, "agreement": scored.agreement}
    values = {
        f"{kind} of {column}": float(scores[row])
        for kind, columns in kinds.items()
        for column, scores in columns.items()
    }
    return {name: value for name, value in values.items() if math.isfinite(value)}
