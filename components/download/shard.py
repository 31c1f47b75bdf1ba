"""Build one shard in a process of its own, rows in the order of the input."""

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

DRAWN = 1  # stands for what draws a scene, whose hash lies beside the shard, for it decides no other row
DRAWN_BY = "drawn_by.json"  # of a finished shard, and of no output
SPEED_ONLY = {"connections", "connections_per_host"}


@dataclass(frozen=True)
class DownloadShard:
    """A shard to be made; it can be sent to another process.

    Attributes:
        name: E.g. `00003`.
        rows: Those that the source already rejected among them.
        params: Of download; the connections are those of this process.
        store: Folder of finished shards.
        deadly: Numbers of rows whose decoding crashed a process before.
    """

    name: str
    rows: list[Row | Rejection]
    params: Download
    store: Path
    deadly: frozenset[int] = frozenset()

    def __call__(self, reporter: ProgressReporter) -> Path:
        """Return the folder of the finished shard: the tar, its tables, the ledger and `<name>_stats.json`.

        Rows and images alone decide the bytes. A row of an earlier round that has its image, or was refused
        for good, is taken from there. The latest round alone is kept.
        """
        root = open_bucket(self.params.data_root, greet=False) if self.params.data_root else None
        key = shard_key(self.name, self.rows, self.params)
        rounds = Attempts(self.store, key, lambda folder: forget_lost(folder, root))
        latest = rounds.latest()
        if latest and (came_without_network(latest, self.name) or self._is_drawn_otherwise(latest)):
            mark_for_retry(latest)
            latest = None
        if latest:
            reporter.advance(len(self.rows))
        else:  # what was fetched when keys had no hash is not fetched again
            earlier = [replace(row, key=without_hash(row.key)) for row in self.rows]
            if earlier != self.rows:
                rounds.take_over(shard_key(self.name, earlier, self.params))
        finished = rounds.finish(
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
        """Return the same shard, one of whose rows is not decoded."""
        return replace(self, deadly=self.deadly | {item})

    def _make(self, folder: Path, before: Path | None, reporter: ProgressReporter) -> None:
        from components.download.shard_fetcher import (
            ShardFetcher,  # imports torch, which the parent does without
        )

        with Spool(folder) as spool:
            known = known_rows(before, self.store.parent, spool) if before else {}
            if before and self._is_drawn_otherwise(before):
                known = {number: one for number, one in known.items() if not _is_drawn(self.rows[number])}
            taken = ShardFetcher(self.params, spool, reporter, self.deadly).all(self.rows, known)
            entries = [entry_of(row, one) for row, one in zip(self.rows, taken, strict=True)]
            pairs = (
                Pair(row.key, spool.get(one.place), row.captions[0].text, _metadata(row, entry))
                for row, one, entry in zip(self.rows, taken, entries, strict=True)
                if isinstance(row, Row) and one.place
            )
            write_shard(folder / f"{self.name}.tar", pairs)
        write_ledger(folder / f"{self.name}.parquet", entries)
        write_json(folder / f"{self.name}_stats.json", stats_of(entries))
        if any(map(_is_drawn, self.rows)):
            write_json(folder / DRAWN_BY, self._drawing)

    @property
    def _drawing(self) -> str:
        """The hash of the code that draws scenes."""
        return code_of(self.store.parent, "download", "scenes")

    def _is_drawn_otherwise(self, finished: Path) -> bool:
        """Say whether other code drew a finished shard's scenes: they are drawn again, all else stays."""
        if not any(map(_is_drawn, self.rows)):
            return False
        path = finished / DRAWN_BY
        return not path.is_file() or read_json(path) != self._drawing


def _is_drawn(row: Row | Rejection) -> bool:
    return isinstance(row, Row) and isinstance(row.image, ImageScene)


def shard_key(name: str, rows: Sequence[Row | Rejection], params: Download) -> str:
    """Return the hash of what decides a shard: its name, its rows, the files they name, and params."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(content_key(_identity(row, params.fetch.max_bytes)).encode())
    decisive = {
        "fetch": params.fetch.model_dump(exclude=SPEED_ONLY),
        "images": params.images.model_dump(),
        "max_urls_per_body": params.max_urls_per_body,
    }
    return content_key([FETCHED["shard"], name, digest.hexdigest(), decisive])


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
        if row.image.size <= max_bytes:  # a larger one is refused unread
            data = row.image.read()
            image += [hashlib.sha256(data).hexdigest(), *preparation_of(data)]
    else:
        image = asdict(row.image) if row.image else None
    captions = [[one.column, one.language, one.number, one.text] for one in row.captions]
    return [row.key, row.split, row.source, captions, row.labels, image]


def _metadata(row: Row, entry: LedgerEntry) -> dict[str, Any]:
    captions = [
        {
            "column": one.column,
            "language": one.language,
            "number": one.number,
            "text": one.text,
            "writer": one.writer,
        }
        for one in row.captions
    ]
    return {**asdict(entry), "labels": row.labels, "captions": captions}


def is_lacking(finished: Path, name: str) -> bool:
    """Say whether a row of a shard failed for a reason that may pass."""
    return any(may_pass(reason) for reason in reasons_of(read_stats(finished, name)))


def came_without_network(finished: Path, name: str) -> bool:
    """Say whether a shard has not one image and connections failed: it is worth asking again."""
    stats = read_stats(finished, name)
    return stats["successes"] == 0 and bool(CONNECTION_REASONS & stats["status_dict"].keys())


def known_rows(finished: Path, work: Path, spool: Spool) -> dict[int, FetchResult]:
    """Return the rows of an earlier round whose fate is settled, by number; pictures go to the spool."""
    from components.download.shard_fetcher import FetchResult

    (shard,) = shards_of(finished)
    places = {pair.key: spool.put(pair.jpeg) for pair in read_pairs(finished, shard, work)}
    return {
        number: FetchResult(
            one.status,
            one.reason,
            one.sha256,
            one.original_bytes,
            one.final_url,
            places[one.key] if one.status == SUCCESS else None,
            one.width,
            one.height,
            one.original_width,
            one.original_height,
            json.loads(one.exif)["Orientation"] if one.exif else None,
            one.is_animated,
        )
        for number, one in enumerate(read_ledger(finished / f"{shard.name}.parquet"))
        if not may_pass(one.reason)
    }
