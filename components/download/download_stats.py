"""Aggregate shard statistics and enforce reject limits."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.download.ledger import SUCCESS, LedgerEntry, read_ledger, read_stats, reasons_of
from components.download.refusal import CONNECTION_REASONS, may_pass
from components.errors import DataError, InfrastructureError
from components.running.rows import Rows
from components.settings.params import Params
from components.settings.sources import Sidecars
from components.sources.rows import Rejection, Row
from components.sources.source_requirements import images_folder, is_fetched
from components.storage.attempts import mark_for_retry
from components.storage.layout import Layout
from components.storage.manifest import listed
from components.storage.side_tables import read_table

DEAD_NETWORK_ROWS = 100  # failed connections without one image before the stage gives up at once
ORIGINAL_BYTES = pa.schema([("original_bytes", pa.int64())])
DEAD_NETWORK_HOSTS = 30  # that these were to, where images came before: few hosts may have died
log = logging.getLogger("llm2clip")


class DownloadStats:
    """Adds up the stats of shards.

    Args:
        params: Of the run.
        layout: Of the project.
    """

    def __init__(self, params: Params, layout: Layout) -> None:
        self.rows = Rows()
        self.splits: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.original_bytes = 0  # of all that came
        self.shard_bytes = 0
        self.animated = 0  # images, of which the first frame was taken
        self._params, self._layout = params, layout
        self._max_reject_share = params.download.max_reject_share
        self._sources = {source.name: source for source in params.download.sources}
        self._url_sources = {name for name, source in self._sources.items() if is_fetched(source)}
        self._with_rejected: list[Path] = []  # ledgers
        self._retriable: list[Path] = []
        self._struck: list[Path] = []

    def noted(self, rows: Iterable[Row | Rejection]) -> Iterator[Row | Rejection]:
        """Yield rows; the first one that a source rejects for a reason is remembered for messages."""
        for row in rows:
            if isinstance(row, Rejection) and row.reason not in self.rows.firsts:
                self.rows.firsts[row.reason] = row.described()
            yield row

    def add(self, piece: Path, name: str) -> int:
        """Add a finished shard and return the number of its images.

        Raises:
            InfrastructureError: there is no network.
        """
        stats = read_stats(piece, name)
        reasons = reasons_of(stats)
        self.rows.accept(stats["successes"])
        for reason, count in reasons.items():
            self.rows.reject(reason, count)
        if reasons:
            self._with_rejected.append(piece / f"{name}.parquet")
        self.splits.update(stats["splits"])
        self.sources.update(stats["sources"])
        self.animated += stats["animated"]
        self.original_bytes += _original_bytes(piece / f"{name}.parquet")
        self.shard_bytes += sum(entry.bytes for entry in listed(piece) if entry.is_shard)
        if any(may_pass(reason) for reason in reasons):
            self._retriable.append(piece)
        if sum(reasons.get(reason, 0) for reason in CONNECTION_REASONS) >= DEAD_NETWORK_ROWS:
            self._struck.append(piece)
            self._refuse_dead_network(read_ledger(piece / f"{name}.parquet"))
        return int(stats["successes"])

    def figures(self) -> dict[str, Any]:
        """Return rows, splits, sources and bytes, for metrics."""
        return {
            **self.rows.figures(),
            "splits": dict(self.splits),
            "sources": dict(self.sources),
            "animated": self.animated,
            "original_bytes": self.original_bytes,
            "shard_bytes": self.shard_bytes,
        }

    def _refuse_dead_network(self, entries: list[LedgerEntry]) -> None:
        """Stop at a shard of many failed connections and no image; have all its like asked for again.

        Once images came from urls, the failed ones must be to many hosts.
        """
        if any(entry.status == SUCCESS and entry.source in self._url_sources for entry in entries):
            return
        failed = [entry for entry in entries if entry.reason in CONNECTION_REASONS]
        hosts = {"".join((entry.url or "").split("/")[2:3]) for entry in failed}
        if self._fetched() and len(hosts) < DEAD_NETWORK_HOSTS:
            return
        for piece in self._struck:
            mark_for_retry(piece)
        raise InfrastructureError(
            f"no network: {len(failed)} connections failed "
            "and not one image came; check the network and run again"
        )

    def _fetched(self) -> int:
        return sum(self.sources[name] for name in self._url_sources)

    def check(self, given: int) -> None:
        """Check balance and limits.

        Args:
            given: Rows that the sources gave.

        Raises:
            DataError: no image, too many rejected, or a count that does not balance.
            InfrastructureError: the same, and failed connections are the reason.
        """
        if self.rows.exceeds(self._max_reject_share):
            self._find_firsts()
        try:
            self.rows.check(self._max_reject_share, "download", self._params, self._layout, given=given)
        except DataError as fault:
            for piece in self._retriable:
                mark_for_retry(piece)
            if self._retriable:
                log.warning(
                    "download: the next run asks again for the images that %d shards lack",
                    len(self._retriable),
                )
            failed = sum(self.rows.rejected[reason] for reason in CONNECTION_REASONS)
            others = sum(self.rows.rejected.values()) - failed
            if failed and others <= self._max_reject_share * self.rows.rows_in:
                what = "no network" if self._fetched() == 0 else "the network failed"
                of = max(CONNECTION_REASONS, key=lambda reason: self.rows.rejected[reason])
                raise InfrastructureError(
                    f"{what}: {failed} of {self.rows.rows_in} images lack a connection "
                    f"({of}, first {self.rows.firsts.get(of)}); check the network and run again"
                ) from None
            raise fault

    def _find_firsts(self) -> None:
        """Look in the ledgers for the first row of each reason that no source gave."""
        for path in self._with_rejected:
            if self.rows.rejected.keys() <= self.rows.firsts.keys():
                return
            for entry in read_ledger(path):
                if entry.reason and entry.reason not in self.rows.firsts:
                    self.rows.firsts[entry.reason] = self._described(entry)

    def _described(self, entry: LedgerEntry) -> str:
        """Return for a message which image an entry is of: its url, or the path that was looked for."""
        source = self._sources.get(entry.source)
        name = entry.url or entry.key
        if isinstance(source, Sidecars):
            folder: str | None = source.path
        else:
            folder = images_folder(source) if source else None
        if folder is None:
            return f"{name} of source {entry.source}"
        path = self._layout.inputs(self._params.download.inputs) / folder / name
        return f"{path.as_posix()} of source {entry.source}"


def _original_bytes(ledger: Path) -> int:
    return sum(filter(None, read_table(ledger, ORIGINAL_BYTES).column("original_bytes").to_pylist()))
