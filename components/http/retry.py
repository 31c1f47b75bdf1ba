"""HTTP errors worth retrying, and how long to wait before a retry."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import cast

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

STATUSES = frozenset({408, 409, 425, 429, *range(500, 600)})  # HTTP statuses worth a retry
MAY_PASS = frozenset({"timeout", "connection_failed", *(f"http_{status}" for status in STATUSES)})


class HttpFailure(Exception):
    """A request without a usable answer; its text is the reason.

    Args:
        reason: One word, for counts and messages.
        may_pass: True if another attempt may succeed; None: if `MAY_PASS` lists the reason.
        retry_after_seconds: Wait that the server asked for.
        at_last: Exception to raise after the last attempt; None: this one.
    """

    def __init__(
        self,
        reason: str,
        *,
        may_pass: bool | None = None,
        retry_after_seconds: float = 0.0,
        at_last: Exception | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason, self.retry_after_seconds = reason, retry_after_seconds
        self.may_pass = reason in MAY_PASS if may_pass is None else may_pass
        self._at_last = at_last

    @property
    def at_last(self) -> Exception:
        """Exception to raise after the last attempt."""
        return self._at_last or self


def retry_after_seconds(headers: Mapping[str, str]) -> float:
    """Return the wait that a server asks for, as seconds or as a date by its own clock; 0 if none."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,12}", value):
        return float(value)
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("Date", ""))
    except (TypeError, ValueError):
        return 0.0
    return max(0.0, wait.total_seconds())


def retrying(
    retries: int,
    wait_seconds: Callable[[int, HttpFailure], float],
    before_sleep: Callable[[RetryCallState], Awaitable[None]] | None = None,
) -> AsyncRetrying:
    """Return a caller of a coroutine function that retries until success, a final failure or the limit.

    Args:
        retries: Attempts after the first one.
        wait_seconds: Returns the wait for the number of retries so far and the failure.
        before_sleep: Awaited before each wait.
    """
    return AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, HttpFailure) and error.may_pass),
        stop=stop_after_attempt(retries + 1),
        wait=lambda state: wait_seconds(state.attempt_number - 1, _failure(state)),
        sleep=asyncio.sleep,
        before_sleep=before_sleep,
        retry_error_callback=_raise_at_last,
    )


def _failure(state: RetryCallState) -> HttpFailure:
    return cast("HttpFailure", state.outcome and state.outcome.exception())  # only an HttpFailure is retried


def _raise_at_last(state: RetryCallState) -> None:
    raise _failure(state).at_last from None
