from __future__ import annotations

import pytest

from components.ml.text.word_overlap import word_counts, word_overlap


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        ("a red dog", "a dog on a red sofa", 1.0),  # a dense caption that holds the short one
        ("a red dog", "A RED dog.", 1.0),
        ("a a a", "a dog", 0.5),  # the second has one `a`
        ("two dogs", "a cat", 0.0),
        ("两只狗", "一只狗", 2 / 3),
        ("🐕🐕", "a dog", None),
        ("", "", None),
    ],
)
def test_overlap_by_hand(first: str, second: str, overlap: float | None) -> None:
    counts = word_counts(first), word_counts(second)
    found = word_overlap(*counts)
    assert found == (pytest.approx(overlap) if overlap is not None else None)
    assert word_overlap(*reversed(counts)) == found
