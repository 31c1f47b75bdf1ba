from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from components.ml.prefetch import ahead


def test_results_come_in_the_order_of_items_whoever_is_first_done() -> None:
    others = threading.Event()

    def slow_first(item: int) -> int:
        if item == 0:
            assert others.wait(60)
        if item == 2:
            others.set()
        return 10 * item

    assert list(ahead(slow_first, range(5), 2, 4)) == [0, 10, 20, 30, 40]


def test_no_more_than_count_are_taken_before_they_are_wanted() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10):
            taken.append(item)
            yield item

    results = ahead(str, items(), 2, 3)
    assert next(results) == "0"
    assert taken == [0, 1, 2]
    assert next(results) == "1"
    assert taken == [0, 1, 2, 3]
    assert list(results) == [str(item) for item in range(2, 10)]


def test_an_error_comes_at_its_turn_and_ends_it() -> None:
    done: list[int] = []

    def odd(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        done.append(item)
        return item

    results = ahead(odd, range(100), 1, 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert max(done) < 6
    assert list(ahead(odd, [], 1, 2)) == []
