"""Distributions of the training data, small enough to keep and to compare a later run with."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.audit.captions import Captions
from components.audit.curation.score_table import ScoreTable
from components.audit.images import Images

FORMAT_VERSION = 1  # raised by hand when a bin or a feature gets another meaning
PER_OCTAVE = 8  # bins of sizes and lengths: a ninth wide
PER_UNIT = 50  # bins of similarity and agreement: 0.02 wide


def summary_tree(
    images: Images, captions: Captions, scored: ScoreTable, dropped: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return summary.json: for each feature of the train rows that go on, the number of values in each bin.

    Args:
        images: All.
        captions: Of all rows.
        scored: Of all images.
        dropped: (N,) images that do not go on.
    """
    kept = images.are("train") & ~dropped
    width, height, size = (images.sizes[name].to_numpy()[kept] for name in ("width", "height", "bytes"))
    features = {
        "width": _octaves(*_counted(width)),
        "height": _octaves(*_counted(height)),
        "aspect": _octaves(*_counted(width / height)),
        "bytes": _octaves(*_counted(size)),
    }
    for kind, lengths in captions.train_lengths(dropped).items():
        features[f"words of {kind}"] = _octaves([1 + words for words in lengths], list(lengths.values()))
    for name, scores in (("similarity", scored.similarity), ("agreement", scored.agreement)):
        features |= {f"{name} of {column}": _units(scores[column][kept]) for column in sorted(scores)}
    return {"format_version": FORMAT_VERSION, "rows": int(kept.sum()), "features": features}


def _counted(values: NDArray[Any]) -> tuple[list[float], list[int]]:
    """Return the different values, and how many there are of each."""
    different, counts = np.unique(values, return_counts=True)
    return different.tolist(), counts.tolist()


def _octaves(values: list[float], counts: list[int]) -> dict[str, Any]:
    """Return the histogram of the logarithm; each value's is taken by `math`, equal on every machine."""
    bins = Counter[int]()
    for value, count in zip(values, counts, strict=True):
        bins[math.floor(PER_OCTAVE * math.log2(value))] += count
    return _feature(bins, 0)


def _units(values: NDArray[np.float32]) -> dict[str, Any]:
    known = values[np.isfinite(values)].astype(np.float64)
    places, counts = _counted(np.floor(PER_UNIT * known).astype(np.int64))
    return _feature(Counter(dict(zip(places, counts, strict=True))), len(values) - len(known))


def _feature(bins: Counter[Any], missing: int) -> dict[str, Any]:
    """Return how many values there are, how many more are no number, and the counts by bin."""
    counts = {str(number): bins[number] for number in sorted(bins)}
    return {"values": bins.total(), "missing": missing, "bins": counts}
