from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.storage import duplicate_counter
from components.storage.duplicate_counter import DuplicateCounter, digest_of


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=st.lists(st.text("ab", max_size=4), max_size=60))
@pytest.mark.parametrize("in_memory", [1 << 16, 7, 1])
def test_exactly_the_texts_that_repeat_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], in_memory: int
) -> None:
    monkeypatch.setattr(duplicate_counter, "DIGESTS_IN_MEMORY", in_memory)
    folder = tmp_path / str(hash(tuple(texts)))
    found = DuplicateCounter(folder)
    for text in texts:
        found.add(text)
    repeated = found.repeated()
    counts = Counter(texts)
    assert len(repeated) == sum(count > 1 for count in counts.values())
    assert all((text in repeated) == (count > 1) for text, count in counts.items())
    assert "never added" not in repeated
    seen = set[str]()
    for text in texts:
        assert repeated.came_before(text) == (text in seen)
        seen.add(text)
    for path in folder.glob("*"):
        path.unlink()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=st.lists(st.text("ab", max_size=4), max_size=60))
@pytest.mark.parametrize("in_memory", [1 << 16, 7, 1])
def test_as_many_texts_are_counted_as_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], in_memory: int
) -> None:
    monkeypatch.setattr(duplicate_counter, "DIGESTS_IN_MEMORY", in_memory)
    folder = tmp_path / str(hash(tuple(texts)))
    found = DuplicateCounter(folder)
    half = len(texts) // 2
    found.add_all(np.array([digest_of(text) for text in texts[:half]], np.uint64))
    for text in texts[half:]:
        found.add(text)
    assert found.distinct() == len(set(texts))
    for path in folder.glob("*"):
        path.unlink()
