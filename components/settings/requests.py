"""Params of HTTP requests to a model server; its address comes from the environment."""

from __future__ import annotations

from components.settings.section import Count, Positive, Rate, Section


class HttpRequests(Section):
    """Timeouts, retries and connections of one request; they change no answer."""

    deadline_seconds: Rate = 60.0  # for all attempts and the waits between them
    retries: Count = 4  # after a broken connection, HTTP 429 or 5xx
    backoff_seconds: Rate = 1.0  # before the first retry; doubles each time
    max_retry_after_seconds: Rate = 30.0  # upper limit on a server's Retry-After
    connections: Positive = 8
