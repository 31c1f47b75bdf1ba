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
DEAD_NETWORK_HOSTS = 30  # if images came before, failures must reach so many hosts: a few may just be down
log = logging.getLogger("llm2clip")


class DownloadStats:
    """Add up the statistics of finished shards.

    Args:
        params: Params of the run.
        layout: Layout of the project.
    """

    def __init__(self, params: Params, layout: Layout) -> None:
        self.rows = Rows()
        self.splits: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.original_bytes = 0  # of all images that were fetched
        self.shard_bytes = 0
        self.animated = 0  # images reduced to their first frame
        self._params, self._layout = params, layout
        self._max_reject_share = params.download.max_reject_share
        self._sources = {source.name: source for source in params.download.sources}
        self._url_sources = {name for name, source in self._sources.items() if is_fetched(source)}
        self._ledgers_with_rejects: list[Path] = []
        self._retryable_shards: list[Path] = []
        self._disconnected_shards: list[Path] = []

    def noted(self, rows: Iterable[Row | Rejection]) -> Iterator[Row | Rejection]:
        """Yield rows and keep the first row that a source rejects for each reason, for messages."""
        for row in rows:
            if isinstance(row, Rejection) and row.reason not in self.rows.firsts:
                self.rows.firsts[row.reason] = row.described()
            yield row

    def add(self, folder: Path, name: str) -> int:
        """Add a finished shard and return the number of its images.

        Raises:
            InfrastructureError: no connection works.
        """
        stats = read_stats(folder, name)
        reasons = reasons_of(stats)
        self.rows.accept(stats["successes"])
        for reason, count in reasons.items():
            self.rows.reject(reason, count)
        if reasons:
            self._ledgers_with_rejects.append(folder / f"{name}.parquet")
        self.splits.update(stats["splits"])
        self.sources.update(stats["sources"])
        self.animated += stats["animated"]
        self.original_bytes += _original_bytes(folder / f"{name}.parquet")
        self.shard_bytes += sum(entry.bytes for entry in listed(folder) if entry.is_shard)
        if any(may_pass(reason) for reason in reasons):
            self._retryable_shards.append(folder)
        if sum(reasons.get(reason, 0) for reason in CONNECTION_REASONS) >= DEAD_NETWORK_ROWS:
            self._disconnected_shards.append(folder)
            self._refuse_dead_network(read_ledger(folder / f"{name}.parquet"))
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
        """Stop after a shard with many failed connections and no image; mark all such shards for a retry.

        If images came from URLs before, the failed connections must be to many hosts.
        """
        if any(entry.status == SUCCESS and entry.source in self._url_sources for entry in entries):
            return
        failed = [entry for entry in entries if entry.reason in CONNECTION_REASONS]
        hosts = {"".join((entry.url or "").split("/")[2:3]) for entry in failed}
        if self._fetched() and len(hosts) < DEAD_NETWORK_HOSTS:
            return
        for folder in self._disconnected_shards:
            mark_for_retry(folder)
        raise InfrastructureError(
            f"no network: {len(failed)} connections failed and no image came; check the network and rerun"
        )

    def _fetched(self) -> int:
        return sum(self.sources[name] for name in self._url_sources)

    def check(self, given: int) -> None:
        """Check that no row is unaccounted for and that the reject limit holds.

        Args:
            given: Number of rows that the sources gave.

        Raises:
            DataError: no image, too many rejected rows, or a count that does not balance.
            InfrastructureError: the same, because of failed connections.
        """
        if self.rows.exceeds(self._max_reject_share):
            self._find_firsts()
        try:
            self.rows.check(self._max_reject_share, "download", self._params, self._layout, given=given)
        except DataError as error:
            for folder in self._retryable_shards:
                mark_for_retry(folder)
            if self._retryable_shards:
                log.warning(
                    "download: the next run fetches the missing images of %d shards again",
                    len(self._retryable_shards),
                )
            failed = sum(self.rows.rejected[reason] for reason in CONNECTION_REASONS)
            other_rejects = sum(self.rows.rejected.values()) - failed
            if failed and other_rejects <= self._max_reject_share * self.rows.rows_in:
                problem = "no network" if self._fetched() == 0 else "the network failed"
                reason = max(CONNECTION_REASONS, key=lambda name: self.rows.rejected[name])
                raise InfrastructureError(
                    f"{problem}: {failed} of {self.rows.rows_in} images lack a connection "
                    f"({reason}, first {self.rows.firsts.get(reason)}); check the network and rerun"
                ) from None
            raise error

    def _find_firsts(self) -> None:
        """Find in the ledgers the first row of each reason that no source reported."""
        for path in self._ledgers_with_rejects:
            if self.rows.rejected.keys() <= self.rows.firsts.keys():
                return
            for entry in read_ledger(path):
                if entry.reason and entry.reason not in self.rows.firsts:
                    self.rows.firsts[entry.reason] = self._described(entry)

    def _described(self, entry: LedgerEntry) -> str:
        """Return for a message the URL of an entry's image, or the path where it was expected."""
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
