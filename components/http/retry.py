"""HTTP errors worth retrying."""

from __future__ import annotations

STATUSES = frozenset({408, 409, 425, 429, *range(500, 600)})  # of HTTP
MAY_PASS = frozenset({"timeout", "connection_failed", *(f"http_{status}" for status in STATUSES)})
