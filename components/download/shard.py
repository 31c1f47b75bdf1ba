"""Fetch one new shard in a worker process; rows whose picture the store has are copied."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from components.download.ledger import (
    ADDED,
    SUCCESS,
    FetchResult,
    LedgerEntry,
    entry_of,
    read_ledger,
    stats_of,
    write_ledger,
)
from components.download.matching import NewRow
from components.download.picture_store import SETTINGS, ledger_of
from components.download.refusal import may_pass
from components.download.spool import Spool
from components.running.jobs import ProgressReporter
from components.settings.download import Download
from components.sources.rows import Row
from components.storage.atomic import write_json
from components.storage.buckets.bucket import open_bucket
from components.storage.bulk import keep_remote
from components.storage.result_cache import get_or_build
from components.storage.shards import Pair, caption_fields, read_pairs, shards_of, write_shard


@dataclass(frozen=True)
class DownloadShard:
    """The job that builds one new shard; it can be sent to another process.

    Attributes:
        name: E.g. `00003`.
        wanted: Its rows, in order.
        params: Params of download, with this process's share of the connections.
        settings: Stored with the shard (`PictureStore.settings`).
        store: Folder of finished shards.
        deadly: Indices of rows whose decoding crashed a process before.
    """

    name: str
    wanted: list[NewRow]
    params: Download
    settings: dict[str, Any]
    store: Path
    deadly: frozenset[int] = frozenset()

    def __call__(self, reporter: ProgressReporter) -> Path:
        """Return the folder of the finished shard: the tar, its ledger, its statistics, its settings.

        The bytes depend on rows and images alone.
        """
        finished = get_or_build(self.store, self.name, partial(self._make, reporter))
        if self.params.data_root:
            keep_remote(finished, open_bucket(self.params.data_root, greet=False))
        return finished

    def skip_item(self, item: int) -> Self:
        """Return the same job without decoding this row."""
        return replace(self, deadly=self.deadly | {item})

    def _make(self, reporter: ProgressReporter, folder: Path) -> None:
        from components.download.shard_fetcher import (
            ShardFetcher,  # imports torch, which the parent process does not need
        )

        rows = [wanted.row for wanted in self.wanted]
        with Spool(folder) as spool:
            fetcher = ShardFetcher(self.params, spool, reporter, self.deadly)
            results = fetcher.all(rows, self._copied(spool))
            rounds = dict.fromkeys(range(len(rows)), 0)
            for number in range(1, self.params.retry_rounds + 1):
                lacking = {index for index, result in enumerate(results) if may_pass(result.reason)}
                if not lacking:
                    break
                rounds |= dict.fromkeys(lacking, number)
                settled = {index: result for index, result in enumerate(results) if index not in lacking}
                results = fetcher.again(rows, settled)
            entries = [
                entry_of(wanted.row, result, wanted.origin, rounds[index])
                for index, (wanted, result) in enumerate(zip(self.wanted, results, strict=True))
            ]
            write_shard(folder / f"{self.name}.tar", _pairs(rows, results, entries, spool))
        write_ledger(folder / f"{self.name}.parquet", entries)
        write_json(folder / f"{self.name}_stats.json", stats_of(entries))
        write_json(folder / SETTINGS, self.settings)

    def _copied(self, spool: Spool) -> dict[int, FetchResult]:
        """Return the results that the store has, by row index, and put their pictures into the spool."""
        results: dict[int, FetchResult] = {}
        by_shard: dict[str, dict[int, int]] = {}
        for index, wanted in enumerate(self.wanted):
            if wanted.known:
                by_shard.setdefault(wanted.known.shard, {})[index] = wanted.known.line
        for shard, lines in by_shard.items():
            folder = self.store / shard
            entries = read_ledger(ledger_of(folder))
            wanted_entries = {index: entries[line] for index, line in lines.items()}
            keys = {entry.key for entry in wanted_entries.values() if entry.status == SUCCESS}
            jpegs = _jpegs(folder, keys, self.store.parent)
            for index, entry in wanted_entries.items():
                jpeg = jpegs.get(entry.key)
                if jpeg is None or self._is_as_encoded(jpeg):
                    results[index] = _result_of(entry, jpeg, spool)
        return results

    def _is_as_encoded(self, jpeg: bytes) -> bool:
        """Say whether a picture was encoded in the quality of params; earlier versions stored none."""
        from PIL import Image

        sample = io.BytesIO()
        Image.new("RGB", (8, 8)).save(sample, "JPEG", quality=self.params.images.jpeg_quality)
        tables = [Image.open(file).quantization for file in (io.BytesIO(jpeg), sample)]  # type: ignore[attr-defined]
        return bool(tables[0] == tables[1])


def _jpegs(folder: Path, keys: set[str], work: Path) -> dict[str, bytes]:
    if not keys:
        return {}
    (shard,) = shards_of(folder)
    return {pair.key: pair.jpeg for pair in read_pairs(folder, shard, work) if pair.key in keys}


def _result_of(entry: LedgerEntry, jpeg: bytes | None, spool: Spool) -> FetchResult:
    return FetchResult(
        entry.status,
        entry.reason,
        entry.sha256,
        entry.original_bytes,
        entry.final_url,
        spool.put(jpeg) if jpeg is not None else None,
        entry.width,
        entry.height,
        entry.original_width,
        entry.original_height,
        json.loads(entry.exif)["Orientation"] if entry.exif else None,
        entry.is_animated,
        sha256(jpeg).hexdigest() if jpeg is not None else None,
    )


def _pairs(
    rows: Sequence[Row], results: Iterable[FetchResult], entries: Sequence[LedgerEntry], spool: Spool
) -> Iterator[Pair]:
    for row, result, entry in zip(rows, results, entries, strict=True):
        if result.spooled:
            yield Pair(row.key, spool.get(result.spooled), row.captions[0].text, _metadata(row, entry))


def _metadata(row: Row, entry: LedgerEntry) -> dict[str, Any]:
    captions = [caption_fields(caption) for caption in row.captions]
    line = {name: value for name, value in asdict(entry).items() if name not in ADDED}
    return {**line, "labels": row.labels, "captions": captions}
