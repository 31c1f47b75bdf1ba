"""Build one shard of the download stage in a worker process, rows in input order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from components.download.ledger import (
    SUCCESS,
    LedgerEntry,
    entry_of,
    read_ledger,
    read_stats,
    reasons_of,
    stats_of,
    write_ledger,
)
from components.download.refusal import CONNECTION_REASONS, may_pass
from components.download.spool import Spool
from components.ml.vision.pictures import PNG_HEAD_BYTES, preparation_of
from components.running.jobs import ProgressReporter
from components.settings.download import Download
from components.sources.rows import ImageFile, ImageMember, ImageScene, Rejection, Row
from components.sources.values import without_hash
from components.storage.atomic import content_key, read_json, sha256_of, write_json
from components.storage.attempts import Attempts, mark_for_retry
from components.storage.buckets.bucket import open_bucket
from components.storage.bulk import forget_lost, keep_remote
from components.storage.computed import FETCHED, code_of
from components.storage.shards import Pair, add_side_tables, read_pairs, shards_of, write_shard

if TYPE_CHECKING:
    from components.download.shard_fetcher import FetchResult

DRAWN = 1  # in place of the render code's hash: that lies beside the shard, as it affects no other row
DRAWN_BY = "drawn_by.json"  # in the folder of a finished shard, not in the stage's output
SPEED_ONLY = {"connections", "connections_per_host"}


@dataclass(frozen=True)
class DownloadShard:
    """The job that builds one shard; it can be sent to another process.

    Attributes:
        name: E.g. `00003`.
        rows: All rows, including those that the source already rejected.
        params: Params of download, with this process's share of the connections.
        store: Folder of finished shards.
        deadly: Indices of rows whose decoding crashed a process before.
    """

    name: str
    rows: list[Row | Rejection]
    params: Download
    store: Path
    deadly: frozenset[int] = frozenset()

    def __call__(self, reporter: ProgressReporter) -> Path:
        """Return the folder of the finished shard: the tar, its tables, the ledger and `<name>_stats.json`.

        The bytes depend on rows and images alone. A row that has its image from an earlier attempt, or was
        refused for good there, is reused. Only the latest attempt is kept.
        """
        root = open_bucket(self.params.data_root, greet=False) if self.params.data_root else None
        key = shard_key(self.name, self.rows, self.params)
        attempts = Attempts(self.store, key, lambda folder: forget_lost(folder, root))
        latest = attempts.latest()
        if latest and (came_without_network(latest, self.name) or self._is_render_code_changed(latest)):
            mark_for_retry(latest)
            latest = None
        if latest:
            reporter.advance(len(self.rows))
        else:  # reuse images fetched by versions whose keys had no hash
            rows_before_hash = [replace(row, key=without_hash(row.key)) for row in self.rows]
            if rows_before_hash != self.rows:
                attempts.take_over(shard_key(self.name, rows_before_hash, self.params))
        finished = attempts.finish(
            latest,
            self.params.retry_rounds,
            lambda folder: is_lacking(folder, self.name),
            lambda folder, before, number: self._make(
                folder, before, reporter if number == 0 else reporter.uncounted()
            ),
        )
        add_side_tables(finished, self.store.parent)
        if root:
            keep_remote(finished, root)
        return finished

    def skip_item(self, item: int) -> Self:
        """Return the same job without decoding this row."""
        return replace(self, deadly=self.deadly | {item})

    def _make(self, folder: Path, before: Path | None, reporter: ProgressReporter) -> None:
        from components.download.shard_fetcher import (
            ShardFetcher,  # imports torch, which the parent process does not need
        )

        with Spool(folder) as spool:
            known = known_rows(before, self.store.parent, spool) if before else {}
            if before and self._is_render_code_changed(before):
                known = {
                    index: result for index, result in known.items() if not _is_rendered(self.rows[index])
                }
            results = ShardFetcher(self.params, spool, reporter, self.deadly).all(self.rows, known)
            entries = [entry_of(row, result) for row, result in zip(self.rows, results, strict=True)]
            pairs = (
                Pair(row.key, spool.get(result.spooled), row.captions[0].text, _metadata(row, entry))
                for row, result, entry in zip(self.rows, results, entries, strict=True)
                if isinstance(row, Row) and result.spooled
            )
            write_shard(folder / f"{self.name}.tar", pairs)
        write_ledger(folder / f"{self.name}.parquet", entries)
        write_json(folder / f"{self.name}_stats.json", stats_of(entries))
        if any(map(_is_rendered, self.rows)):
            write_json(folder / DRAWN_BY, self._render_code_hash)

    @property
    def _render_code_hash(self) -> str:
        """The hash of the code that renders scenes."""
        return code_of(self.store.parent, "download", "scenes")

    def _is_render_code_changed(self, finished: Path) -> bool:
        """Say whether other code rendered a finished shard's scenes: then only they are rendered again."""
        if not any(map(_is_rendered, self.rows)):
            return False
        path = finished / DRAWN_BY
        return not path.is_file() or read_json(path) != self._render_code_hash


def _is_rendered(row: Row | Rejection) -> bool:
    return isinstance(row, Row) and isinstance(row.image, ImageScene)


def shard_key(name: str, rows: Sequence[Row | Rejection], params: Download) -> str:
    """Return the hash of all inputs of a shard: its name, its rows, the files they name, and params."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(content_key(_identity(row, params.fetch.max_bytes)).encode())
    relevant_params = {
        "fetch": params.fetch.model_dump(exclude=SPEED_ONLY),
        "images": params.images.model_dump(),
        "max_urls_per_body": params.max_urls_per_body,
    }
    return content_key([FETCHED["shard"], name, digest.hexdigest(), relevant_params])


def _identity(row: Row | Rejection, max_bytes: int) -> Any:  # noqa: ANN401 - plain values
    if isinstance(row, Rejection):
        return {name: value for name, value in asdict(row).items() if name != "value"}
    image: Any
    if isinstance(row.image, ImageScene):
        image = [row.image.scene.identity, row.image.size, DRAWN]
    elif isinstance(row.image, ImageFile):
        image = [row.image.name, None]
        if row.image.path.is_file():
            with row.image.path.open("rb") as file:
                head = file.read(PNG_HEAD_BYTES)
            image = [row.image.name, sha256_of(row.image.path), *preparation_of(head)]
    elif isinstance(row.image, ImageMember):
        image = [row.image.name, row.image.size]
        if row.image.size <= max_bytes:  # a larger one is refused without being read
            data = row.image.read()
            image += [hashlib.sha256(data).hexdigest(), *preparation_of(data)]
    else:
        image = asdict(row.image) if row.image else None
    captions = [[caption.column, caption.language, caption.number, caption.text] for caption in row.captions]
    return [row.key, row.split, row.source, captions, row.labels, image]


def _metadata(row: Row, entry: LedgerEntry) -> dict[str, Any]:
    captions = [
        {
            "column": caption.column,
            "language": caption.language,
            "number": caption.number,
            "text": caption.text,
            "writer": caption.writer,
        }
        for caption in row.captions
    ]
    return {**asdict(entry), "labels": row.labels, "captions": captions}


def is_lacking(finished: Path, name: str) -> bool:
    """Say whether a row of a shard failed for a reason that is worth a retry."""
    return any(may_pass(reason) for reason in reasons_of(read_stats(finished, name)))


def came_without_network(finished: Path, name: str) -> bool:
    """Say whether a shard has no image and connections failed: then it is fetched again."""
    stats = read_stats(finished, name)
    return stats["successes"] == 0 and bool(CONNECTION_REASONS & stats["status_dict"].keys())


def known_rows(finished: Path, work: Path, spool: Spool) -> dict[int, FetchResult]:
    """Return the final results of an earlier attempt by row index, and put its images into the spool."""
    from components.download.shard_fetcher import FetchResult

    (shard,) = shards_of(finished)
    slices = {pair.key: spool.put(pair.jpeg) for pair in read_pairs(finished, shard, work)}
    return {
        index: FetchResult(
            entry.status,
            entry.reason,
            entry.sha256,
            entry.original_bytes,
            entry.final_url,
            slices[entry.key] if entry.status == SUCCESS else None,
            entry.width,
            entry.height,
            entry.original_width,
            entry.original_height,
            json.loads(entry.exif)["Orientation"] if entry.exif else None,
            entry.is_animated,
        )
        for index, entry in enumerate(read_ledger(finished / f"{shard.name}.parquet"))
        if not may_pass(entry.reason)
    }
