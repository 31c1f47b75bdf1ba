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
    """Yield function(item) for each item, in the order of the items.

    Args:
        function: Called in threads; its exception is raised here, at the item's turn.
        items: Taken as they are needed, in the caller's thread.
        threads: Number of threads.
        count: Most results that are finished or in progress.
    """
    futures: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                futures.append(pool.submit(function, item))
                if len(futures) >= count:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
        finally:
            for future in futures:
                future.cancel()
