"""Download outcomes by host, from the ledgers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from components.audit.verdict import GateResult
from components.settings.audit import Audit
from components.storage.side_tables import read_table

LEDGER = pa.schema([(name, pa.string()) for name in ("key", "url", "status", "error_message")])
SUCCESS = "success"
NO_HOST = "(no valid url)"


@dataclass
class HostStats:
    """Rows and successes, over all and by host; a row that no host was asked for has none."""

    rows: int = 0
    successes: int = 0
    failures: list[dict[str, str | None]] = field(default_factory=list)  # the first ones
    host_rows: Counter[str] = field(default_factory=Counter)
    host_successes: Counter[str] = field(default_factory=Counter)

    def add(self, table: pa.Table, samples: int) -> None:
        """Add one ledger; keep the first `samples` failures, by key, host and reason.

        A url may hold a password or a token: only its host is ever shown.
        """
        columns = (table[name].to_pylist() for name in LEDGER.names)
        for key, url, status, reason in zip(*columns, strict=True):
            good = status == SUCCESS
            host = host_of(url or "")
            self.rows += 1
            self.successes += good
            if host is not None:
                self.host_rows[host] += 1
                self.host_successes[host] += good
            if not good and len(self.failures) < samples:
                why = (reason or status or "").partition(":")[0]
                self.failures.append({"key": key, "host": host, "reason": why})

    def worst_hosts(self, min_rows: int, count: int) -> list[dict[str, Any]]:
        """Return the hosts with the lowest share of successes among those of at least `min_rows` rows."""
        known = [(self.host_successes[host] / n, host, n) for host, n in self.host_rows.items()]
        worst = sorted(one for one in known if one[2] >= min_rows)
        return [{"host": host, "rows": n, "success_share": share} for share, host, n in worst[:count]]


def host_of(url: str) -> str | None:
    """Return the host of an http(s) url in printable ASCII; None of anything else, such as a file's name.

    Example:
        >>> host_of("https://user:secret@Example.org:8080/cat.jpg?token=1")
        'example.org'
    """
    if not url.lower().startswith(("http://", "https://")):
        return None
    try:
        host = urlsplit(url).hostname or NO_HOST
    except ValueError:
        return NO_HOST
    return ascii(host)[1:-1]


def read_attempts(ledgers: Iterable[Path], samples: int) -> HostStats:
    """Read all ledgers."""
    attempts = HostStats()
    for path in ledgers:
        attempts.add(read_table(path, LEDGER), samples)
    return attempts


def success_gates(attempts: HostStats, limits: Audit) -> list[GateResult]:
    """Return the gates on the share of images that came, over all and of the worst host."""
    share = attempts.successes / attempts.rows if attempts.rows >= limits.min_rows else None
    param, limit = "audit.min_success_share", limits.min_success_share
    found = [
        GateResult("success", share, limit, "at_least", attempts.rows, "images", param, attempts.failures)
    ]
    if limits.min_host_success_share is not None and attempts.host_rows:
        found.append(_host_gate(attempts, limits, limits.min_host_success_share))
    return found


def _host_gate(attempts: HostStats, limits: Audit, limit: float) -> GateResult:
    worst = attempts.worst_hosts(limits.min_host_rows, limits.samples)
    share, rows = (worst[0]["success_share"], worst[0]["rows"]) if worst else (None, 0)
    of = f"images of {worst[0]['host']}" if worst else "images of one host"
    param = "audit.min_host_success_share"
    failing = [host for host in worst if host["success_share"] < limit]
    unknown = f"no host has {limits.min_host_rows} rows"
    return GateResult("host_success", share, limit, "at_least", rows, of, param, failing, unknown)
