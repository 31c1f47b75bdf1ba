from __future__ import annotations

from collections import Counter
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from components.sources.rows import mixed


def test_by_hand() -> None:
    assert "".join(mixed([iter("aaaa"), iter("bb")], [2, 1])) == "abaaba"
    assert "".join(mixed([iter("aa"), iter("bbbbbb")], [1, 3])) == "babbbabb"
    assert "".join(mixed([iter("aaa"), iter("bbb")], [1, 1])) == "ababab"
    assert "".join(mixed([iter("aaaaa"), iter("b"), iter("cc")], [1, 1, 1])) == "abcacaaa"
    assert list(mixed([], [])) == []
    assert list(mixed([iter(""), iter("b")], [5, 1])) == ["b"]


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0.01, 100)), min_size=1, max_size=5))
def test_each_item_once_and_in_its_stream_s_order(parts: list[tuple[int, float]]) -> None:
    streams = [[(stream, item) for item in range(count)] for stream, (count, _) in enumerate(parts)]
    found = list(mixed([iter(stream) for stream in streams], [weight for _, weight in parts]))
    for stream, items in enumerate(streams):
        assert [item for item in found if item[0] == stream] == items
    assert len(found) == sum(map(len, streams))


@given(st.lists(st.integers(1, 50), min_size=2, max_size=4))
def test_every_head_holds_the_mixture_until_a_stream_ends(weights: list[int]) -> None:
    streams = [iter([stream] * 500) for stream in range(len(weights))]
    counts = Counter[int]()
    for number, item in enumerate(islice(mixed(streams, weights), 500), 1):
        counts[item] += 1
        for stream, weight in enumerate(weights):
            assert abs(counts[stream] - number * weight / sum(weights)) <= (len(weights) + 1) / 2 + 1e-9


def test_scaled_weights_mean_the_same() -> None:
    streams = ["a" * 9, "b" * 9, "c" * 9]
    assert list(mixed(list(map(iter, streams)), [3, 2, 1])) == list(
        mixed(list(map(iter, streams)), [6, 4, 2])
    )
