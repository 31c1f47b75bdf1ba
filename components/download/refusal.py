"""Reasons why an image is rejected."""

from __future__ import annotations

from components.http.retry import MAY_PASS, HttpFailure


class Refused(HttpFailure):
    """An image is refused: its row is rejected with this reason, and the stage continues.

    Args:
        reason: One word, for the counts in metrics.
        may_pass: Whether another attempt may succeed.
        retry_after_seconds: Pause that the server asked for.
        at_last: Exception to raise after the last attempt; None: this one.
    """

    def __init__(
        self,
        reason: str,
        *,
        may_pass: bool = False,
        retry_after_seconds: float = 0.0,
        at_last: Exception | None = None,
    ) -> None:
        super().__init__(reason, may_pass=may_pass, retry_after_seconds=retry_after_seconds, at_last=at_last)


CONNECTION_REASONS = frozenset(
    {"dns_failed", "connection_failed"}
)  # if every row fails with one of these, there is no network
UNEXPECTED = "unexpected"  # a bug of ours or of a library; a later version may succeed
PASSING_REASONS = MAY_PASS | CONNECTION_REASONS | {"short_body", "decoder_died", "out_of_memory", UNEXPECTED}


def may_pass(reason: str) -> bool:
    """Say whether a retry may succeed: the cause was the network, the server, this machine or our code."""
    return reason in PASSING_REASONS
