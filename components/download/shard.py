"""One shard, a job for a process of its own: its rows taken and written in the order of the input."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from components.download.addresses import without_credentials
from components.download.ledger import (
    FAILED_TO_DOWNLOAD,
    FAILED_TO_RESIZE,
    SUCCESS,
    Entry,
    read_ledger,
    write_ledger,
)
from components.download.refusal import CONNECTION_REASONS, PASSING_REASONS
from components.download.spool import Spool
from components.running.workers import Tell
from components.settings.download import Download
from components.sources.rows import ImageFile, ImageMember, ImageScene, ImageUrl, Rejection, Row
from components.sources.scene_drawing import FORMAT_VERSION as SCENE_VERSION
from components.storage.atomic import content_key, read_json, remove, sha256_of, write_json
from components.storage.bucket import open_bucket
from components.storage.bulk import forget_lost, keep_remote
from components.storage.pieces import is_intact, piece
from components.storage.shards import Pair, read_pairs, shards_of, write_shard

if TYPE_CHECKING:
    from components.download.taking import Taken

FORMAT_VERSION = 3  # raised whenever the same rows give other bytes
SPEED_ONLY = {"connections", "connections_per_host"}


@dataclass(frozen=True)
class Shard:
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

    def __call__(self, tell: Tell) -> Path:
        """Return the folder of the finished shard: `<name>.tar`, `<name>.parquet`, `<name>_stats.json`.

        Rows and images alone decide the bytes. A row of an earlier round that has its image, or was refused
        for good, is taken from there. The latest round alone is kept.
        """
        root = open_bucket(self.params.data_root, greet=False) if self.params.data_root else None
        key = shard_key(self.name, self.rows, self.params)
        keys = [key, *(content_key([key, number]) for number in range(1, self.params.retry_rounds + 1))]
        asides = [aside(self.store / key) for key in keys]
        for folder in (*(self.store / key for key in keys), *asides):
            forget_lost(folder, root)
        number = max((at for at, key in enumerate(keys) if is_intact(self.store / key)), default=0)
        finished = self.store / keys[number]
        if is_intact(finished) and came_without_network(finished, self.name):
            set_aside(finished)
            number = 0
        if is_intact(finished):
            tell.advance(len(self.rows))
        before = next((folder for folder in reversed(asides) if is_intact(folder)), asides[0])
        finished = piece(self.store, keys[number], lambda folder: self._make(folder, before, tell))
        for folder in asides:
            remove(folder)
        for key in keys[number + 1 :]:
            finished = self._again(finished, key, tell.uncounted())
        if root:
            keep_remote(finished, root)
        return finished

    def without(self, unit: int) -> Self:
        """Return the same shard, one of whose rows is not decoded."""
        return replace(self, deadly=self.deadly | {unit})

    def _again(self, finished: Path, key: str, tell: Tell) -> Path:
        """Return the shard after another round of asking, or as it is when no failure may have passed."""
        if not PASSING_REASONS & reasons_of(finished, self.name).keys():
            return finished
        later = piece(self.store, key, lambda folder: self._make(folder, finished, tell))
        remove(finished)
        return later

    def _make(self, folder: Path, before: Path, tell: Tell) -> None:
        from components.download.taking import Taking  # imports torch, which the parent does without

        with Spool(folder) as spool:
            known = _known(before, self.store.parent, spool) if is_intact(before) else {}
            taken = Taking(self.params, spool, tell, self.deadly).all(self.rows, known)
            entries = [_entry(row, one) for row, one in zip(self.rows, taken, strict=True)]
            pairs = (
                Pair(row.key, spool.get(one.place), row.captions[0].text, _metadata(row, entry))
                for row, one, entry in zip(self.rows, taken, entries, strict=True)
                if isinstance(row, Row) and one.place
            )
            write_shard(folder / f"{self.name}.tar", pairs)
        write_ledger(folder / f"{self.name}.parquet", entries)
        write_json(folder / f"{self.name}_stats.json", _stats(entries))


def shard_key(name: str, rows: Sequence[Row | Rejection], params: Download) -> str:
    """Return the hash of what decides a shard: its name, its rows, the files they name, and params."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(content_key(_identity(row)).encode())
    decisive = {
        "fetch": params.fetch.model_dump(exclude=SPEED_ONLY),
        "images": params.images.model_dump(),
        "max_urls_per_body": params.max_urls_per_body,
    }
    return content_key([FORMAT_VERSION, name, digest.hexdigest(), decisive])


def reasons_of(finished: Path, name: str) -> dict[str, int]:
    """Return the rejected rows of a shard by reason."""
    counts = read_json(finished / f"{name}_stats.json")["status_dict"]
    return {reason: count for reason, count in counts.items() if reason != SUCCESS}


def came_without_network(finished: Path, name: str) -> bool:
    """Say whether a shard has not one image and connections failed: it is worth asking again."""
    stats = read_json(finished / f"{name}_stats.json")
    return stats["successes"] == 0 and bool(CONNECTION_REASONS & stats["status_dict"].keys())


def aside(finished: Path) -> Path:
    """Return where a shard waits that is not good enough; the next run takes from it what is good."""
    return finished.with_name(f"{finished.name}.aside")


def set_aside(finished: Path) -> None:
    """Have the next run ask again for the rows of a shard whose failure may pass."""
    remove(aside(finished))
    finished.replace(aside(finished))


def _known(finished: Path, work: Path, spool: Spool) -> dict[int, Taken]:
    """Return the rows of an earlier round whose fate is settled, by number; pictures go to the spool."""
    from components.download.taking import Taken

    (shard,) = shards_of(finished)
    places = {pair.key: spool.put(pair.jpeg) for pair in read_pairs(finished, shard, work)}
    return {
        number: Taken(
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
        if one.reason not in PASSING_REASONS
    }


def _identity(row: Row | Rejection) -> Any:  # noqa: ANN401 - plain values
    if isinstance(row, Rejection):
        return asdict(row)
    image: Any
    if isinstance(row.image, ImageScene):
        image = [row.image.scene.identity, row.image.size, SCENE_VERSION]
    elif isinstance(row.image, ImageFile):
        image = [row.image.name, sha256_of(row.image.path) if row.image.path.is_file() else None]
    elif isinstance(row.image, ImageMember):
        image = [row.image.name, hashlib.sha256(row.image.read()).hexdigest()]
    else:
        image = asdict(row.image) if row.image else None
    captions = [[one.column, one.language, one.number, one.text] for one in row.captions]
    return [row.key, row.split, row.source, captions, row.labels, image]


def _entry(row: Row | Rejection, taken: Taken) -> Entry:
    where = f": {row.where}" if isinstance(row, Rejection) else ""
    return Entry(
        url=_address(row),
        caption=row.captions[0].text if isinstance(row, Row) else None,
        key=row.key,
        status=taken.status,
        error_message=f"{taken.reason}{where}" if taken.reason else None,
        width=taken.width if taken.place else None,
        height=taken.height if taken.place else None,
        original_width=taken.original_width if taken.place else None,
        original_height=taken.original_height if taken.place else None,
        exif=f'{{"Orientation": {taken.orientation}}}' if taken.place else None,
        sha256=taken.sha256,
        original_bytes=taken.original_bytes,
        final_url=taken.final_url,
        is_animated=taken.is_animated if taken.place else None,
        split=row.split,
        source=row.source,
    )


def _address(row: Row | Rejection) -> str | None:
    if isinstance(row, Rejection):
        return without_credentials(row.url) or None
    if isinstance(row.image, ImageUrl):
        return without_credentials(row.image.url)
    return row.image.name if isinstance(row.image, ImageFile | ImageMember) else None


def _metadata(row: Row, entry: Entry) -> dict[str, Any]:
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


def _stats(entries: Sequence[Entry]) -> dict[str, Any]:
    statuses = Counter(entry.status for entry in entries)
    good = [entry for entry in entries if entry.status == SUCCESS]
    return {
        "count": len(entries),
        "successes": statuses[SUCCESS],
        "failed_to_download": statuses[FAILED_TO_DOWNLOAD],
        "failed_to_resize": statuses[FAILED_TO_RESIZE],
        "status_dict": dict(Counter(entry.reason or SUCCESS for entry in entries)),
        "splits": dict(Counter(entry.split for entry in good)),
        "sources": dict(Counter(entry.source for entry in good)),
        "animated": sum(bool(entry.is_animated) for entry in good),
    }
