"""Download outcomes by host, from today's ledgers in `artifacts/download/rows/`."""

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
    """Rows and successes, in total and by host; a row without a request has no host."""

    rows: int = 0
    successes: int = 0
    failures: list[dict[str, str | None]] = field(default_factory=list)  # the first ones
    host_rows: Counter[str] = field(default_factory=Counter)
    host_successes: Counter[str] = field(default_factory=Counter)

    def add(self, table: pa.Table, samples: int) -> None:
        """Add one ledger; keep key, host and reason of the first `samples` failures.

        A URL may hold a password or a token: only its host is ever shown.
        """
        columns = (table[name].to_pylist() for name in LEDGER.names)
        for key, url, status, reason in zip(*columns, strict=True):
            is_success = status == SUCCESS
            host = host_of(url or "")
            self.rows += 1
            self.successes += is_success
            if host is not None:
                self.host_rows[host] += 1
                self.host_successes[host] += is_success
            if not is_success and len(self.failures) < samples:
                short_reason = (reason or status or "").partition(":")[0]
                self.failures.append({"key": key, "host": host, "reason": short_reason})

    def worst_hosts(self, min_rows: int, count: int) -> list[dict[str, Any]]:
        """Return the hosts with the lowest share of successes, among hosts with at least `min_rows` rows."""
        shares = [(self.host_successes[host] / rows, host, rows) for host, rows in self.host_rows.items()]
        worst = sorted(entry for entry in shares if entry[2] >= min_rows)
        return [{"host": host, "rows": rows, "success_share": share} for share, host, rows in worst[:count]]


def host_of(url: str) -> str | None:
    """Return the host of an http(s) URL in printable ASCII; None for anything else, such as a file name.

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
    stats = HostStats()
    for path in ledgers:
        stats.add(read_table(path, LEDGER), samples)
    return stats


def success_gates(stats: HostStats, limits: Audit) -> list[GateResult]:
    """Return the gates on the share of fetched images, in total and of the worst host."""
    share = stats.successes / stats.rows if stats.rows >= limits.min_rows else None
    param, limit = "audit.min_success_share", limits.min_success_share
    gates = [GateResult("success", share, limit, "at_least", stats.rows, "images", param, stats.failures)]
    if limits.min_host_success_share is not None and stats.host_rows:
        gates.append(_host_gate(stats, limits, limits.min_host_success_share))
    return gates


def _host_gate(stats: HostStats, limits: Audit, limit: float) -> GateResult:
    worst = stats.worst_hosts(limits.min_host_rows, limits.samples)
    share, rows = (worst[0]["success_share"], worst[0]["rows"]) if worst else (None, 0)
    of = f"images of {worst[0]['host']}" if worst else "images of one host"
    param = "audit.min_host_success_share"
    failing = [host for host in worst if host["success_share"] < limit]
    unknown = f"no host has {limits.min_host_rows} rows"
    return GateResult("host_success", share, limit, "at_least", rows, of, param, failing, unknown)
