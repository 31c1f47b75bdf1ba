"""The distributions of what training will see, small enough to keep and to compare a later run with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from components.audit.captions import Captions
from components.audit.scored import Scored

FORMAT_VERSION = 1  # raised by hand when a bin or a feature gets another meaning
PER_OCTAVE = 8  # bins of sizes and lengths: a ninth wide
PER_UNIT = 50  # bins of similarity and agreement: 0.02 wide


def summary_tree(
    table: pa.Table, captions: Captions, scored: Scored, dropped: Iterable[int]
) -> dict[str, Any]:
    """Return summary.json: for each feature of the train rows that go on, the number of values in each bin.

    Args:
        table: Fingerprints of all images.
        captions: Of all rows.
        scored: Of all images.
        dropped: Row numbers of `table`.
    """
    train = np.array(table["split"].to_pylist(), dtype=object) == "train"
    lost = np.zeros(len(table), bool)
    lost[list(dropped)] = True
    kept = train & ~lost
    gone = {table["key"][int(row)].as_py() for row in np.flatnonzero(lost)}
    width, height = (table[name].to_numpy()[kept].astype(float) for name in ("width", "height"))
    features = {
        "width": _octaves(width),
        "height": _octaves(height),
        "aspect": _octaves(width / height),
        "bytes": _octaves(table["bytes"].to_numpy()[kept]),
    }
    features |= {f"words of {kind}": _octaves(words) for kind, words in _words(captions, gone).items()}
    for name, scores in (("similarity", scored.similarity), ("agreement", scored.agreement)):
        features |= {f"{name} of {column}": _units(scores[column][kept]) for column in sorted(scores)}
    return {"format_version": FORMAT_VERSION, "rows": int(kept.sum()), "features": features}


def _words(captions: Captions, gone: set[str]) -> dict[str, list[int]]:
    """Return one more than the number of words of each train caption, by kind."""
    found: dict[str, list[int]] = {kind: [] for kind in captions.kinds()}
    for key, kinds in captions.words.items():
        if captions.split_of[key] == "train" and key not in gone:
            for kind, words in kinds.items():
                found[kind] += [1 + count for count in words]
    return found


def _octaves(values: Iterable[float]) -> dict[str, Any]:
    return _feature([PER_OCTAVE * math.log2(value) for value in values])


def _units(values: Iterable[float]) -> dict[str, Any]:
    return _feature([PER_UNIT * float(value) for value in values])


def _feature(places: list[float]) -> dict[str, Any]:
    """Return how many values there are, how many of them are no number, and the counts by bin."""
    bins = Counter(math.floor(place) for place in places if math.isfinite(place))
    counts = {str(number): bins[number] for number in sorted(bins)}
    return {"values": bins.total(), "missing": len(places) - bins.total(), "bins": counts}
