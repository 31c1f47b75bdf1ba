"""Drift by numbers worked out by hand; what cannot be told is unknown (docs/faults.md P20)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.audit.drift import (
    FORMAT_VERSION,
    _octaves,
    _units,
    drift_gates,
    read_reference,
    stability_index,
)
from components.audit.verdict import GateResult
from components.errors import ConfigurationError, DataError
from components.settings.audit import Reference
from components.settings.params import Params
from components.storage.atomic import write_json

Feature = dict[str, Any]
EVEN: Feature = {"values": 100, "missing": 0, "bins": {"0": 50, "1": 50}}


def gate(smoke: Params, now: Feature | None, before: Feature | None) -> GateResult:
    reference = Reference(summary="summary.json", features=["width"], max_psi=0.1)
    limits = smoke.audit.model_copy(update={"min_rows": 50})
    trees = [{"width": feature} if feature else {"height": EVEN} for feature in (now, before)]
    (found,) = drift_gates(trees[0], trees[1], reference, limits)
    return found


def test_the_index_by_hand() -> None:
    now = {"values": 100, "missing": 0, "bins": {"0": 20, "1": 80}}
    p, q = (50.5 / 101, 50.5 / 101), (20.5 / 101, 80.5 / 101)
    expected = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert stability_index(EVEN, now) == pytest.approx(expected, abs=1e-6)


@given(st.dictionaries(st.integers(-40, 40).map(str), st.integers(0, 500), min_size=1))
def test_the_same_distribution_has_no_drift_and_none_is_negative(bins: dict[str, int]) -> None:
    feature = {"values": sum(bins.values()), "missing": 0, "bins": bins}
    assert stability_index(feature, feature) in (0.0, None)
    other = stability_index(EVEN, feature)
    assert other is not None
    assert other >= 0


def test_bins_join_to_groups_of_equal_shares() -> None:
    fine = {"values": 1000, "missing": 0, "bins": {str(number): 10 for number in range(100)}}
    beyond = {"values": 1000, "missing": 0, "bins": {"500": 1000}}
    shares = [0.5 / 1005] * 9 + [1000.5 / 1005]
    expected = sum((q - 0.1) * math.log(q / 0.1) for q in shares)
    assert stability_index(fine, beyond) == pytest.approx(expected, abs=1e-6)


def test_missing_values_are_drift(smoke: Params) -> None:
    half = {"values": 100, "missing": 100, "bins": {"0": 50, "1": 50}}
    assert gate(smoke, half, EVEN).verdict == "failed"


def test_a_drift_stops_with_both_histograms(smoke: Params) -> None:
    now = {"values": 100, "missing": 0, "bins": {"0": 5, "1": 95}}
    found = gate(smoke, now, EVEN)
    assert found.verdict == "failed"
    assert found.samples == [{"feature": "width", "reference": EVEN["bins"], "now": now["bins"]}]
    assert gate(smoke, EVEN, EVEN).verdict == "passed"
    assert gate(smoke, {"values": 100, "missing": 0, "bins": {"9": 100}}, EVEN).verdict == "failed"


NEARLY: Feature = {"values": 100, "missing": 0, "bins": {"0": 99, "1": 1}}
CONSTANT: Feature = {"values": 100, "missing": 0, "bins": {"0": 100}}


@pytest.mark.parametrize(
    ("now", "before", "why"),
    [
        (None, EVEN, "too little data"),
        (EVEN, None, "too little data"),
        ({"values": 0, "missing": 100, "bins": {}}, EVEN, "too little data"),  # all NaN
        ({"values": 10, "missing": 0, "bins": {"0": 5, "1": 5}}, EVEN, "too little data"),
        (EVEN, {"values": 0, "missing": 0, "bins": {}}, "too little data"),
        (CONSTANT, CONSTANT, "constant"),
        (EVEN, CONSTANT, "constant"),
        (CONSTANT, NEARLY, "constant"),
    ],
)
def test_what_cannot_be_told_is_unknown(
    smoke: Params, now: Feature | None, before: Feature | None, why: str
) -> None:
    found = gate(smoke, now, before)
    assert found.verdict == "unknown"
    assert why in found.sentence()
    assert why in str(found.tree()["why"])


def test_a_feature_that_nobody_has_is_named(smoke: Params) -> None:
    with pytest.raises(ConfigurationError, match="names width, which neither run has; there are height"):
        gate(smoke, None, None)


def test_a_reference_is_looked_at_before_it_is_trusted(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    with pytest.raises(ConfigurationError, match=r"not found \(audit\.reference\.summary\)"):
        read_reference(path)
    for version in (FORMAT_VERSION + 1, None):
        write_json(path, {"format_version": version, "features": {}})
        with pytest.raises(ConfigurationError, match=f"has format {version}; expected {FORMAT_VERSION}"):
            read_reference(path)
    write_json(path, [1])
    with pytest.raises(ConfigurationError, match="has format None"):
        read_reference(path)
    damaged: list[Any] = [
        {"width": {"bins": {"0": 1}}},
        {"width": {**EVEN, "bins": {"x": 1}}},
        [],
        {"width": 3},
    ]
    for features in damaged:
        write_json(path, {"format_version": FORMAT_VERSION, "features": features})
        with pytest.raises(DataError, match="is no summary"):
            read_reference(path)
    path.write_text("{")
    with pytest.raises(DataError, match="damaged"):
        read_reference(path)


def test_bins_by_hand() -> None:
    assert _octaves([1.0, 2.0, 2.1, 64.0], [1, 1, 1, 1]) == {
        "values": 4,
        "missing": 0,
        "bins": {"0": 1, "8": 2, "48": 1},
    }
    assert _units(np.array([-0.01, 0.0, 0.031, float("nan")], np.float32)) == {
        "values": 3,
        "missing": 1,
        "bins": {"-1": 1, "0": 1, "1": 1},
    }
