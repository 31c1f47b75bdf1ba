"""One shard: its rows fetched or read or drawn, decoded, and written in the order of the input."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.download.addresses import without_credentials
from components.download.fetching import Fetcher
from components.download.ledger import FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE, SUCCESS, Entry, write_ledger
from components.download.pictures import Picture, jpeg_of, picture_of
from components.download.refusal import Refused
from components.faults import Stopped
from components.running.signals import stop_cancels
from components.settings.download import Download
from components.sources.rows import ImageFile, ImageMember, ImageScene, ImageUrl, Rejection, Row
from components.sources.scene_drawing import FORMAT_VERSION as SCENE_VERSION
from components.sources.scenes import render
from components.storage.atomic import content_key, sha256_of, write_json
from components.storage.shards import Pair, write_shard

FORMAT_VERSION = 1  # raised whenever the same rows give other bytes
SPEED_ONLY = {"connections", "connections_per_host"}


@dataclass(frozen=True)
class Taken:
    """What became of one row: a picture, or the reason why there is none."""

    picture: Picture | None
    sha256: str | None  # of the bytes as they came; of the JPEG where the image was drawn
    status: str
    reason: str


def shard_key(name: str, rows: Sequence[Row | Rejection], params: Download) -> str:
    """Return the hash of what decides a shard: its name, its rows, the files they name, and params."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(content_key(_identity(row)).encode())
    decisive = {"fetch": params.fetch.model_dump(exclude=SPEED_ONLY), "images": params.images.model_dump()}
    return content_key([FORMAT_VERSION, name, digest.hexdigest(), decisive])


def make_shard(
    folder: Path, name: str, rows: Sequence[Row | Rejection], params: Download, advance: Callable[[], None]
) -> None:
    """Write `<name>.tar`, `<name>.parquet` and `<name>_stats.json`; rows and images alone decide them.

    Args:
        folder: Where to.
        name: Of the shard, e.g. `00003`.
        rows: Its rows, those that the source already rejected among them.
        params: Of download.
        advance: Called once for each row that is done.

    Raises:
        Stopped: a stop signal arrived.
    """
    taken = asyncio.run(_take_all(rows, params, advance))
    entries = [_entry(row, one) for row, one in zip(rows, taken, strict=True)]
    pairs = (
        Pair(row.key, one.picture.jpeg, row.captions[0].text, _metadata(row, entry))
        for row, one, entry in zip(rows, taken, entries, strict=True)
        if isinstance(row, Row) and one.picture
    )
    write_shard(folder / f"{name}.tar", pairs)
    write_ledger(folder / f"{name}.parquet", entries)
    write_json(folder / f"{name}_stats.json", _stats(entries))


async def _take_all(
    rows: Sequence[Row | Rejection], params: Download, advance: Callable[[], None]
) -> list[Taken]:
    async def take(row: Row | Rejection) -> Taken:
        taken = await _take(row, params, fetcher, threads)
        advance()
        return taken

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        async with Fetcher(params.fetch) as fetcher:
            work = asyncio.ensure_future(asyncio.gather(*(take(row) for row in rows)))
            with stop_cancels(work, asyncio.get_running_loop()) as stop:
                try:
                    return await work
                except asyncio.CancelledError:
                    if stop.requested:
                        raise Stopped from None
                    raise


async def _take(
    row: Row | Rejection, params: Download, fetcher: Fetcher, threads: ThreadPoolExecutor
) -> Taken:
    if isinstance(row, Rejection):
        return Taken(None, None, FAILED_TO_DOWNLOAD, row.reason)
    loop = asyncio.get_running_loop()
    if isinstance(row.image, ImageScene):
        picture = await loop.run_in_executor(threads, _draw, row.image, params)
        return Taken(picture, hashlib.sha256(picture.jpeg).hexdigest(), SUCCESS, "")
    try:
        if isinstance(row.image, ImageUrl):
            data = await fetcher.get(row.image.url)
        else:
            data = await loop.run_in_executor(threads, _read, row.image, params.fetch.max_bytes)
    except Refused as refused:
        return Taken(None, None, FAILED_TO_DOWNLOAD, refused.reason)
    digest = hashlib.sha256(data).hexdigest()
    if isinstance(row.image, ImageUrl) and row.image.sha256 not in (None, digest):
        return Taken(None, digest, FAILED_TO_DOWNLOAD, "hash_mismatch")
    try:
        picture = await loop.run_in_executor(threads, picture_of, data, params.images)
    except Refused as refused:
        return Taken(None, digest, FAILED_TO_RESIZE, refused.reason)
    return Taken(picture, digest, SUCCESS, "")


def _draw(image: ImageScene, params: Download) -> Picture:
    return jpeg_of(render(image.scene, image.size), params.images, (image.size, image.size))


def _read(image: ImageFile | ImageMember | None, max_bytes: int) -> bytes:
    if image is None:
        raise Refused("no_image")
    if isinstance(image, ImageMember):
        if image.size > max_bytes:
            raise Refused("too_large")
        return image.read()
    if not image.path.is_file():
        raise Refused("image_missing")
    if image.path.stat().st_size > max_bytes:
        raise Refused("too_large")
    return image.path.read_bytes()


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
    picture = taken.picture
    where = f": {row.where}" if isinstance(row, Rejection) else ""
    return Entry(
        url=_address(row),
        caption=row.captions[0].text if isinstance(row, Row) else None,
        key=row.key,
        status=taken.status,
        error_message=f"{taken.reason}{where}" if taken.reason else None,
        width=picture.width if picture else None,
        height=picture.height if picture else None,
        original_width=picture.original_width if picture else None,
        original_height=picture.original_height if picture else None,
        exif=f'{{"Orientation": {picture.orientation}}}' if picture else None,
        sha256=taken.sha256,
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
    }
