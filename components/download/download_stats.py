"""Aggregate shard statistics and enforce reject limits."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from components.download.ledger import SUCCESS, LedgerEntry, read_ledger, reasons_of, stats_of
from components.download.picture_store import PictureStore, ledger_of, stats_of_shard
from components.download.refusal import CONNECTION_REASONS, may_pass
from components.errors import DataError, InfrastructureError
from components.running.rows import Rows
from components.settings.params import Params
from components.settings.sources import Sidecars
from components.sources.rows import Rejection, Row
from components.sources.source_requirements import images_folder, is_fetched
from components.storage.layout import Layout
from components.storage.manifest import listed

DEAD_NETWORK_ROWS = 100  # failed connections without one image before the stage gives up at once
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
        self.url_sources = {name for name, source in self._sources.items() if is_fetched(source)}
        self._retryable_shards: set[str] = set()
        self._disconnected_shards: set[str] = set()  # of this run
        self._fetched = 0  # images of urls that this run has fetched

    def noted(self, rows: Iterable[Row | Rejection]) -> Iterator[Row | Rejection]:
        """Yield rows and keep the first row that a source rejects for each reason, for messages."""
        for row in rows:
            if isinstance(row, Rejection) and row.reason not in self.rows.firsts:
                self.rows.firsts[row.reason] = row.described()
            yield row

    def came(self, folder: Path, store: PictureStore) -> None:
        """Note a shard that this run has fetched.

        Raises:
            InfrastructureError: no connection works.
        """
        stats = stats_of_shard(folder)
        self._fetched += sum(stats["sources"].get(name, 0) for name in self.url_sources)
        failed = sum(reasons_of(stats).get(reason, 0) for reason in CONNECTION_REASONS)
        if failed:
            self._disconnected_shards.add(folder.name)
        if failed >= DEAD_NETWORK_ROWS:
            self._refuse_dead_network(read_ledger(ledger_of(folder)), store)

    def add(self, folder: Path, lines: Sequence[LedgerEntry]) -> None:
        """Add the living lines of a shard."""
        self.rows.accept(sum(entry.status == SUCCESS for entry in lines))
        for entry in lines:
            if entry.status != SUCCESS:
                self.rows.reject(entry.reason, first=self._described(entry))
        stats = stats_of(lines)
        self.splits.update(stats["splits"])
        self.sources.update(stats["sources"])
        self.animated += stats["animated"]
        self.original_bytes += sum(entry.original_bytes or 0 for entry in lines)
        self.shard_bytes += sum(entry.bytes for entry in listed(folder) if entry.is_shard)
        if any(may_pass(entry.reason) for entry in lines):
            self._retryable_shards.add(folder.name)

    def reject(self, rows: Iterable[Rejection]) -> None:
        """Add the rows that the list rules out."""
        for row in rows:
            self.rows.reject(row.reason)

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

    def _refuse_dead_network(self, entries: list[LedgerEntry], store: PictureStore) -> None:
        """Stop after a shard with many failed connections and no image; mark all such shards for a retry.

        If images came from URLs before, the failed connections must be to many hosts.
        """
        if any(entry.status == SUCCESS and entry.source in self.url_sources for entry in entries):
            return
        failed = [entry for entry in entries if entry.reason in CONNECTION_REASONS]
        hosts = {"".join((entry.url or "").split("/")[2:3]) for entry in failed}
        if self._fetched and len(hosts) < DEAD_NETWORK_HOSTS:
            return
        store.set_aside(self._disconnected_shards)
        raise InfrastructureError(
            f"no network: {len(failed)} connections failed and no image came; check the network and rerun"
        )

    def check(self, given: int, store: PictureStore) -> None:
        """Check that no row is unaccounted for and that the reject limit holds.

        Args:
            given: Number of rows that the sources gave, less those that joined another.
            store: Marks shards whose failures the next run tries again.

        Raises:
            DataError: no image, too many rejected rows, or a count that does not balance.
            InfrastructureError: the same, because of failed connections.
        """
        try:
            self.rows.check(self._max_reject_share, "download", self._params, self._layout, given=given)
        except DataError as error:
            if self._retryable_shards:
                store.set_aside(self._retryable_shards)
                log.warning(
                    "download: the next run fetches the missing images of %d shards again",
                    len(self._retryable_shards),
                )
            failed = sum(self.rows.rejected[reason] for reason in CONNECTION_REASONS)
            other_rejects = sum(self.rows.rejected.values()) - failed
            if failed and other_rejects <= self._max_reject_share * self.rows.rows_in:
                problem = (
                    "no network"
                    if not any(self.sources[name] for name in self.url_sources)
                    else "the network failed"
                )
                reason = max(CONNECTION_REASONS, key=lambda name: self.rows.rejected[name])
                raise InfrastructureError(
                    f"{problem}: {failed} of {self.rows.rows_in} images lack a connection "
                    f"({reason}, first {self.rows.firsts.get(reason)}); check the network and rerun"
                ) from None
            raise error

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
