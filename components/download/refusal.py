"""Reasons why an image is rejected."""

from __future__ import annotations

from components.http.retry import MAY_PASS, HttpFailure


class Refused(HttpFailure):
    """One image is not taken; the row is rejected with this reason, and the stage goes on.

    Args:
        reason: One word, counted in metrics.
        may_pass: Another attempt may succeed.
        retry_after_seconds: What the server asked for.
        at_last: What is raised after the last attempt; None: this.
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


CONNECTION_REASONS = frozenset({"dns_failed", "connection_failed"})  # all of them: there is no network
UNEXPECTED = "unexpected"  # a fault of ours, or of a library; a later version may do better
PASSING_REASONS = MAY_PASS | CONNECTION_REASONS | {"short_body", "decoder_died", "out_of_memory", UNEXPECTED}


def may_pass(reason: str) -> bool:
    """Say whether asking again may help: the network, the server, this machine or our code was the reason."""
    return reason in PASSING_REASONS
