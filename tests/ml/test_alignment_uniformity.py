"""Alignment and uniformity by numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from components.ml import alignment_uniformity
from components.ml.alignment_uniformity import alignment, uniformity


def test_alignment_is_the_mean_squared_distance() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert alignment(first, first) == 0
    assert alignment(first, -first) == pytest.approx(4)
    assert alignment(first, first.flip(0)) == pytest.approx(2)


def test_uniformity_of_one_point_and_of_a_cross(monkeypatch: pytest.MonkeyPatch) -> None:
    assert uniformity(torch.tensor([[1.0, 0.0]]).repeat(5, 1)) == pytest.approx(0, abs=1e-6)
    cross = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    # each row sees one at squared distance 4 and two at 2
    expected = math.log((math.exp(-8) + 2 * math.exp(-4)) / 3)
    assert uniformity(cross) == pytest.approx(expected)
    monkeypatch.setattr(alignment_uniformity, "CHUNK_ROWS", 3)
    assert uniformity(cross) == pytest.approx(expected)
