"""Match the rows of the sources with the store: which have their picture, and which are fetched.

Sources are read once. Rows and ledgers are sorted on disk by the hash of their origin, so that rows of one
url meet each other, and what the store knows of it, in little memory.
"""

from __future__ import annotations

import hashlib
import heapq
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from components.download.picture_store import Known, PictureStore, free_names
from components.errors import DataError
from components.ml.vision.pictures import PNG_HEAD_BYTES, preparation_of
from components.sources.row import without_credentials
from components.sources.rows import ImageFile, ImageMember, ImageScene, ImageUrl, Rejection, Row
from components.storage.atomic import content_key, remove
from components.storage.duplicate_counter import DuplicateCounter
from components.storage.hashes import known_sha256
from components.storage.spill import HashSorter, NumberSorter, Spill

ROWS_BETWEEN_LINES = 500_000
SPLITS = ("test", "validation", "train")  # a url of several is a row of the first of these
REJECTED = "rejected"
NumberedRow = tuple[int, Row]  # with its number among all rows of the sources
log = logging.getLogger("llm2clip")


@dataclass(frozen=True)
class NewRow:
    """A row that a new shard takes.

    Attributes:
        row: The row.
        origin: Of its bytes.
        known: A stored picture or failure to copy; None: fetch it.
    """

    row: Row
    origin: str
    known: Known | None


@dataclass
class Matched:
    """The rows of the sources, on disk.

    Attributes:
        living: Rows by the shard that has their picture or their failure, with the line of its ledger.
        new: Rows by the new shard that will have them, in its order.
        rejected: Rows that the list itself rules out.
        given: Number of rows that the sources gave.
        joined: Number of rows that joined another of the same image.
    """

    living: Spill[tuple[Row, int]]
    new: Spill[NewRow]
    rejected: Spill[Rejection]
    given: int = 0
    joined: int = 0
    keys: DuplicateCounter | None = field(default=None, repr=False)

    def rows(self) -> Iterator[Row]:
        """Yield all rows that are not rejected."""
        for name in self.living.names():
            yield from (row for row, _ in self.living.read(name))
        for name in self.new.names():
            yield from (wanted.row for wanted in self.new.read(name))


def match(
    rows: Iterable[Row | Rejection],
    store: PictureStore,
    keys: DuplicateCounter,
    work: Path,
    drawn_by: str,
    max_bytes: int,
    shard_rows: int,
) -> Matched:
    """Read all rows of images, join those of one image, and match them with the store.

    Args:
        rows: Of all sources of images.
        store: What was fetched.
        keys: Counts the keys of the rows.
        work: Folder for temporary files.
        drawn_by: Hash of the code that draws scenes.
        max_bytes: Files that are larger are not read.
        shard_rows: Rows of a new shard.
    """
    remove(work)
    matched = Matched(Spill(work / "living"), Spill(work / "new"), Spill(work / "rejected"))
    sorted_rows: HashSorter[tuple[str, NumberedRow]] = HashSorter(work / "rows")
    for number, row in enumerate(rows):
        matched.given += 1
        if matched.given % ROWS_BETWEEN_LINES == 0:
            log.info("download: %d rows read; fetching begins after the last one", matched.given)
        if isinstance(row, Rejection):
            matched.rejected.add(REJECTED, row)
        else:
            origin = origin_of(row, drawn_by, max_bytes)
            sorted_rows.add(origin, (origin, (number, row)))
    sorted_known: HashSorter[tuple[str, Known]] = HashSorter(work / "known")
    for origin, known in store.known():
        sorted_known.add(origin, (origin, known))
    fresh: NumberSorter[NewRow] = NumberSorter(work / "fresh")
    for origin, group, known_group in _met(sorted_rows, sorted_known):
        for number, row in _resolved(group, matched):
            keys.add(row.key)
            if wanted := _assigned(row, origin, known_group, matched):
                fresh.add(number, wanted)
    sorted_rows.discard()
    sorted_known.discard()
    _plan(fresh, matched, store, shard_rows)
    fresh.discard()
    return matched


def origin_of(row: Row, drawn_by: str, max_bytes: int) -> str:
    """Return where a row's bytes are from: a url, or a hash of the bytes or of the scene."""
    image = row.image
    if isinstance(image, ImageUrl):
        return without_credentials(image.url)  # one with credentials is refused anyway
    if isinstance(image, ImageScene):
        return f"scene:{content_key([image.scene.identity, image.size, drawn_by])}"
    if isinstance(image, ImageMember) and image.size <= max_bytes:
        data = image.read()
        return _local_origin(hashlib.sha256(data).hexdigest(), data)
    if isinstance(image, ImageFile) and image.path.is_file() and image.path.stat().st_size <= max_bytes:
        with image.path.open("rb") as file:
            head = file.read(PNG_HEAD_BYTES)
        return _local_origin(known_sha256(image.path), head)
    return f"unread:{row.key}"


def _local_origin(digest: str, head: bytes) -> str:
    """Return the origin of local bytes; a kind of file that is prepared in another way now has a new one."""
    return ":".join(["sha256", digest, *preparation_of(head)])


def _met(
    rows: HashSorter[tuple[str, NumberedRow]], known: HashSorter[tuple[str, Known]]
) -> Iterator[tuple[str, list[NumberedRow], list[Known]]]:
    """Yield each origin of a row, with its rows in order, and what the store knows of it."""
    streams = [((digest, 0, pair) for digest, pair in rows), ((digest, 1, pair) for digest, pair in known)]
    for _, group in groupby(heapq.merge(*streams, key=itemgetter(0)), key=itemgetter(0)):
        rows_by_origin: dict[str, list[NumberedRow]] = {}
        known_by_origin: dict[str, list[Known]] = {}
        for _, is_known, (origin, value) in group:
            target = known_by_origin if is_known else rows_by_origin
            target.setdefault(origin, []).append(value)  # type: ignore[arg-type]
        for origin, rows_of_origin in rows_by_origin.items():
            yield origin, rows_of_origin, known_by_origin.get(origin, [])


def _resolved(rows: list[NumberedRow], matched: Matched) -> Iterator[NumberedRow]:
    """Yield the rows that stand for a group of one origin: one for a url, one for a key otherwise."""
    first = rows[0][1]
    if not isinstance(first.image, ImageUrl):
        by_key: dict[tuple[str, str], list[NumberedRow]] = {}
        for number, row in rows:
            by_key.setdefault((row.source, row.key), []).append((number, row))
        yield from (_joined(group, matched) for group in by_key.values())
        return
    split = min((row.split for _, row in rows), key=SPLITS.index)
    kept: list[NumberedRow] = []
    for number, row in rows:
        if row.split != split:
            reason = "held_out_url"
        elif kept and (row.source, row.image) != (kept[0][1].source, kept[0][1].image):
            reason = "duplicate_url"
        else:
            kept.append((number, row))
            continue
        url = row.image.url if isinstance(row.image, ImageUrl) else ""
        matched.rejected.add(REJECTED, Rejection(row.key, row.split, row.source, reason, row.key, url))
    yield _joined(kept, matched)


def _joined(rows: list[NumberedRow], matched: Matched) -> NumberedRow:
    """Return the first row with the captions of all, equal ones of a column once."""
    number, first = rows[0]
    if len(rows) == 1:
        return number, first
    matched.joined += len(rows) - 1
    captions, counts, seen = [], dict[str, int](), set()
    for caption in (caption for _, row in rows for caption in row.captions):
        if (caption.column, caption.text) in seen:
            continue
        seen.add((caption.column, caption.text))
        position = counts[caption.column] = counts.get(caption.column, -1) + 1
        captions.append(replace(caption, key=first.key, split=first.split, number=position))
    return number, replace(first, captions=captions)


def _assigned(row: Row, origin: str, known: Sequence[Known], matched: Matched) -> NewRow | None:
    """Give a row to the shard that has its picture or is planned for it; return it if there is none."""
    pin = row.image.sha256 if isinstance(row.image, ImageUrl) else None
    pictures = [one for one in known if one.is_picture and pin in (None, one.sha256)]
    failures = [one for one in known if one.is_settled and one.pin == pin]
    for found in (pictures, failures):
        if lying := next((one for one in found if one.is_ours and one.key == row.key), None):
            matched.living.add(lying.shard, (row, lying.line))
            return None
    wanted = NewRow(row, origin, next(iter(pictures or failures), None))
    if planned := next((one for one in known if one.is_planned and one.key == row.key), None):
        matched.new.add(planned.shard, wanted)
        return None
    return wanted


def _plan(fresh: Iterable[NewRow], matched: Matched, store: PictureStore, shard_rows: int) -> None:
    """Divide the rows that no shard has or is planned for into new shards."""
    planned = {name: rows for name, rows in store.planned().items() if name in set(matched.new.names())}
    names = free_names({*planned, *store.names()})
    for number, wanted in enumerate(fresh):
        if number % shard_rows == 0:
            name = next(names)
        matched.new.add(name, wanted)
    store.plan(
        {
            name: planned.get(name) or [(wanted.origin, wanted.row.key) for wanted in matched.new.read(name)]
            for name in matched.new.names()
        }
    )


def refuse_equal_keys(matched: Matched, texts: Iterable[Row], keys: DuplicateCounter) -> None:
    """Raise if two rows have one key.

    Raises:
        DataError: names the sources of both.
    """
    repeated = keys.repeated()
    if not len(repeated):
        return
    sources: dict[str, str] = {}
    for row in (row for rows in (matched.rows(), texts) for row in rows):
        if row.key not in repeated:
            continue
        if row.key in sources:
            raise DataError(
                f"key {row.key} occurs twice, in source {sources[row.key]} and in {row.source}; expected a "
                "unique key for each row; remove one of the two, set key_column to null (then keys are made "
                "from what a row names), or give one of the files another name"
            )
        sources[row.key] = row.source
