"""Copies planted among real photographs are found (P18); `bench/leakage.py` does it with thousands."""

from __future__ import annotations

from pathlib import Path

from bench.leakage import MAX_FALSE_POSITIVES, REQUIRED, measure
from components.audit.near_duplicates.comparison import Alike
from components.settings.params import Params

PHOTOGRAPHS = 400


def test_planted_copies_of_photographs_are_found(shared: Path, smoke: Params) -> None:
    paths = sorted((shared / "data" / "flickr8k" / "images").glob("*.jpg"))[:PHOTOGRAPHS]
    limits = smoke.audit
    found = measure(paths, Alike(limits.near_duplicate_bits, limits.near_duplicate_difference))
    assert found["photographs"] == PHOTOGRAPHS
    assert not {
        kind: found["recall"][kind] for kind, least in REQUIRED.items() if found["recall"][kind] < least
    }
    assert found["false_positives"] <= MAX_FALSE_POSITIVES, found["taken_for_copies"]
