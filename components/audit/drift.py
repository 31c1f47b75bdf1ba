"""Drift of the train rows against a reference run; an unknown drift never passes as fine."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.audit.captions import Captions
from components.audit.curation.score_table import ScoreTable
from components.audit.images import AuditImages
from components.audit.verdict import TOO_LITTLE, GateResult
from components.errors import ConfigurationError, DataError
from components.settings.audit import Audit, Reference
from components.storage.atomic import read_json

FORMAT_VERSION = 1  # increase by hand when a bin or a feature changes its meaning
PER_OCTAVE = 8  # bins of sizes and lengths: each a ninth wide
PER_UNIT = 50  # bins of similarity and agreement: 0.02 wide
GROUPS = 10  # each about the same share of the reference, as is usual for this index
PRIOR = 0.5  # added to each group's count, so that an empty one has a logarithm
BIN = re.compile(r"-?\d+")
Feature = dict[str, Any]  # values, missing, and counts by bin, as in summary.json


def summary_tree(
    images: AuditImages, captions: Captions, score_table: ScoreTable, dropped: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return summary.json: for each feature of the kept train rows, the number of values in each bin.

    Args:
        images: All images.
        captions: Captions of all rows.
        score_table: Scores of all images.
        dropped: (N,) mask of dropped images.
    """
    is_kept = images.are("train") & ~dropped
    width, height, size = (images.sizes[name].to_numpy()[is_kept] for name in ("width", "height", "bytes"))
    features = {
        "width": _octaves(*_counted(width)),
        "height": _octaves(*_counted(height)),
        "aspect": _octaves(*_counted(width / height)),
        "bytes": _octaves(*_counted(size)),
    }
    for kind, lengths in captions.train_lengths(dropped).items():
        features[f"words of {kind}"] = _octaves([1 + words for words in lengths], list(lengths.values()))
    for name, scores in (("similarity", score_table.similarity), ("agreement", score_table.agreement)):
        features |= {f"{name} of {column}": _units(scores[column][is_kept]) for column in sorted(scores)}
    return {"format_version": FORMAT_VERSION, "rows": int(is_kept.sum()), "features": features}


def _counted(values: NDArray[Any]) -> tuple[list[float], list[int]]:
    """Return the distinct values and their counts."""
    distinct, counts = np.unique(values, return_counts=True)
    return distinct.tolist(), counts.tolist()


def _octaves(values: list[float], counts: list[int]) -> dict[str, Any]:
    """Return the histogram of the logarithm, computed by `math` to be equal on every machine."""
    bins = Counter[int]()
    for value, count in zip(values, counts, strict=True):
        bins[math.floor(PER_OCTAVE * math.log2(value))] += count
    return _feature(bins, 0)


def _units(values: NDArray[np.float32]) -> dict[str, Any]:
    known = values[np.isfinite(values)].astype(np.float64)
    bins, counts = _counted(np.floor(PER_UNIT * known).astype(np.int64))
    return _feature(Counter(dict(zip(bins, counts, strict=True))), len(values) - len(known))


def _feature(bins: Counter[Any], missing: int) -> dict[str, Any]:
    """Return the number of values, the number of missing values, and the counts by bin."""
    counts = {str(number): bins[number] for number in sorted(bins)}
    return {"values": bins.total(), "missing": missing, "bins": counts}


def read_reference(path: Path) -> dict[str, Any]:
    """Read an earlier run's summary.

    Raises:
        ConfigurationError: the file is missing, or of another version.
        DataError: the file is damaged.
    """
    if not path.is_file():
        raise ConfigurationError(
            f"{path} not found (audit.reference.summary); expected an earlier run's summary.json; put it "
            "there"
        )
    tree = read_json(path)
    version = tree.get("format_version") if isinstance(tree, dict) else None
    if version != FORMAT_VERSION:
        raise ConfigurationError(
            f"{path} has format {version}; expected {FORMAT_VERSION}; make it again with this version's audit"
            ", or set audit.reference to null"
        )
    features = tree.get("features")
    if not isinstance(features, dict) or not all(_is_feature(feature) for feature in features.values()):
        raise DataError(f"{path} is no summary of an audit; expected counts by bin; put the right file there")
    return features


def _is_feature(tree: object) -> bool:
    if not isinstance(tree, dict) or not isinstance(tree.get("bins"), dict):
        return False
    counts = [tree.get("values"), tree.get("missing"), *tree["bins"].values()]
    return all(BIN.fullmatch(number) for number in tree["bins"]) and all(
        isinstance(count, int) and count >= 0 for count in counts
    )


def drift_gates(
    current: dict[str, Any], before: dict[str, Any], reference: Reference, limits: Audit
) -> list[GateResult]:
    """Return one gate for each feature that params name.

    Args:
        current: Features of this run's summary.
        before: Features of the reference's summary.
        reference: Params of the reference.
        limits: Params of the audit, for the minimum of rows.

    Raises:
        ConfigurationError: neither run has the feature.
    """
    return [_gate(name, current, before, reference, limits) for name in reference.features]


def _gate(
    name: str, current: dict[str, Any], before: dict[str, Any], reference: Reference, limits: Audit
) -> GateResult:
    if name not in current and name not in before:
        raise ConfigurationError(
            f"audit.reference.features names {name}, which neither run has; there are "
            f"{', '.join(sorted(current))}; fix params"
        )
    no_values: dict[str, Any] = {"values": 0, "missing": 0, "bins": {}}
    current_feature, reference_feature = current.get(name, no_values), before.get(name, no_values)
    figure, unknown = None, TOO_LITTLE
    if min(current_feature["values"], reference_feature["values"]) >= limits.min_rows:
        figure = stability_index(reference_feature, current_feature)
        unknown = "a constant tells nothing"
        if figure is not None and figure <= reference.max_psi and len(current_feature["bins"]) == 1:
            figure = None
    samples = [{"feature": name, "reference": reference_feature["bins"], "now": current_feature["bins"]}]
    limit, param = reference.max_psi, "audit.reference.max_psi"
    drifted = samples if figure is not None and figure > limit else []
    of = "values, population stability index"
    return GateResult(
        f"drift of {name}", figure, limit, "at_most", current_feature["values"], of, param, drifted, unknown
    )


def stability_index(before: Feature, now: Feature) -> float | None:
    """Return the population stability index of two histograms over the same bins.

    Bins are merged into at most ten groups of about equal shares of the reference; missing values are one
    more group. The index is the sum over groups of (q - p) ln(q / p), the symmetrised Kullback-Leibler
    divergence (Yurdakul, 2018).

    Args:
        before: Histogram of the reference.
        now: Histogram of this run.

    Returns:
        The index; None if the reference fills a single group, as a constant has no spread to compare with.

    Example:
        >>> even = {"values": 100, "missing": 0, "bins": {"0": 50, "1": 50}}
        >>> stability_index(even, even)
        0.0
        >>> stability_index({"values": 100, "missing": 0, "bins": {"0": 100}}, even) is None
        True
    """
    total, below = before["values"], 0
    grouped: dict[int, list[int]] = {}
    for number in sorted({*before["bins"], *now["bins"]}, key=int):
        count = before["bins"].get(number, 0)
        group = min(GROUPS - 1, GROUPS * (2 * below + count) // (2 * total)) if total else 0
        counts = grouped.setdefault(group, [0, 0])
        counts[0] += count
        counts[1] += now["bins"].get(number, 0)
        below += count
    if sum(counts[0] > 0 for counts in grouped.values()) < 2:
        return None
    if before["missing"] or now["missing"]:
        grouped[GROUPS] = [before["missing"], now["missing"]]
    p, q = (_shares([counts[side] for counts in grouped.values()]) for side in (0, 1))
    return round(sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True)), 6)


def _shares(counts: list[int]) -> list[float]:
    total = sum(counts) + PRIOR * len(counts)
    return [(count + PRIOR) / total for count in counts]
