from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.download import digests
from components.download.digests import Digests


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=st.lists(st.text("ab", max_size=4), max_size=60))
@pytest.mark.parametrize("in_memory", [1 << 16, 7, 1])
def test_exactly_the_texts_that_repeat_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], in_memory: int
) -> None:
    monkeypatch.setattr(digests, "DIGESTS_IN_MEMORY", in_memory)
    folder = tmp_path / str(hash(tuple(texts)))
    found = Digests(folder)
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
