"""Ordered prefetch on threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, count: int
) -> Iterator[Result]:
    """Yield function(item) of each item, in the order of items.

    Args:
        function: Called in threads; what it raises is raised here, at the item's turn.
        items: FetchResult as they are needed, in the caller's thread.
        threads: How many work at a time.
        count: At most so many results are there or under way.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
