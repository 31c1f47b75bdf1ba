"""How a server is asked over HTTP; where it is, the environment says."""

from __future__ import annotations

from components.settings.section import Count, Positive, Rate, Section


class HttpRequests(Section):
    """How one answer is asked for; changes none that comes."""

    deadline_seconds: Rate = 60.0  # for all attempts and the waits between them
    retries: Count = 4  # after a broken connection, HTTP 429 or 5xx
    backoff_seconds: Rate = 1.0  # before the first retry; doubles each time
    max_retry_after_seconds: Rate = 30.0  # a server may ask for longer and does not get it
    connections: Positive = 8
