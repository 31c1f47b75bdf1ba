"""Fetch, read or draw the pictures of a shard, many at a time."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from components.download.answers import Body
from components.download.fetching import Fetcher
from components.download.ledger import FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE, SUCCESS
from components.download.pictures import Picture, jpeg_of, picture_of
from components.download.refusal import UNEXPECTED, Refused
from components.download.spool import Place, Spool
from components.errors import PipelineError
from components.running.jobs import ProgressReporter
from components.settings.download import Download
from components.sources.drafts import kind_of
from components.sources.row import without_credentials
from components.sources.rows import Image, ImageFile, ImageMember, ImageScene, ImageUrl, Rejection, Row
from components.sources.scenes.scene import render

FILES_IN_MEMORY = 4
OF_THE_MACHINE = frozenset(  # errors of which every row would die
    {
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE,
        errno.ESTALE, errno.EACCES, errno.EPERM,
    }
)  # fmt: skip
ROWS_UNDER_WAY = 1000  # many more than connections, or the rows of one host would hold up all others


@dataclass(frozen=True)
class FetchResult:
    """What became of one row: a picture in the spool, or the reason why there is none."""

    status: str
    reason: str = ""
    sha256: str | None = None  # of the bytes as they came; of the JPEG where the image was drawn
    original_bytes: int | None = None
    final_url: str | None = None
    place: Place | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    orientation: int | None = None
    is_animated: bool | None = None


class ShardFetcher:
    """Takes the rows of one shard.

    Args:
        params: Of download.
        spool: Where pictures are kept.
        reporter: Told of every row that is done, and of the one that is being decoded.
        deadly: Numbers of rows whose decoding crashed the process before.
    """

    def __init__(
        self, params: Download, spool: Spool, reporter: ProgressReporter, deadly: frozenset[int]
    ) -> None:
        self._params, self._spool, self._tell, self._deadly = params, spool, reporter, deadly
        self._reading = asyncio.Semaphore(FILES_IN_MEMORY)

    def all(self, rows: Sequence[Row | Rejection], known: Mapping[int, FetchResult]) -> list[FetchResult]:
        """Take all rows but those that are known, by number; the order is that of the rows."""
        torch.set_num_threads(1)  # a process a core
        taken = asyncio.run(self._all(rows, known))
        return without_placeholders(rows, taken, self._params.max_urls_per_body)

    async def _all(
        self, rows: Sequence[Row | Rejection], known: Mapping[int, FetchResult]
    ) -> list[FetchResult]:
        taken = dict(known)
        left = iter([number for number in range(len(rows)) if number not in known])
        self._tell.advance(len(known))
        with ThreadPoolExecutor(1) as decoder:  # one picture at a time, so that a crash has one cause
            async with Fetcher(self._params.fetch) as fetcher:

                async def take_one_by_one() -> None:
                    for number in left:
                        taken[number] = await self._one(number, rows[number], fetcher, decoder)
                        self._tell.advance()

                count = min(len(rows), ROWS_UNDER_WAY)
                tasks = [asyncio.create_task(take_one_by_one()) for _ in range(count)]
                try:
                    await asyncio.gather(*tasks)
                finally:
                    for task in tasks:
                        task.cancel()  # after a fault nobody goes on with a client that is closed
        return [taken[number] for number in range(len(rows))]

    async def _one(
        self, number: int, row: Row | Rejection, fetcher: Fetcher, decoder: ThreadPoolExecutor
    ) -> FetchResult:
        if isinstance(row, Rejection):
            return FetchResult(FAILED_TO_DOWNLOAD, row.reason)
        try:
            return await self._fetched(number, row, fetcher, decoder)
        except Refused as refused:
            return FetchResult(FAILED_TO_DOWNLOAD, refused.reason)
        except Exception as error:  # the last defence: one row never ends the stage
            if (
                isinstance(error, PipelineError | MemoryError)
                or getattr(error, "errno", None) in OF_THE_MACHINE
            ):
                raise
            self._tell.warn(*_described(row, error))
            return FetchResult(FAILED_TO_DOWNLOAD, UNEXPECTED)

    async def _fetched(
        self, number: int, row: Row, fetcher: Fetcher, decoder: ThreadPoolExecutor
    ) -> FetchResult:
        loop = asyncio.get_running_loop()
        if isinstance(row.image, ImageScene):
            return await loop.run_in_executor(decoder, self._drawn, row.image)
        async with self._body(row, fetcher) as body:
            return await loop.run_in_executor(decoder, self._decoded, number, row, body)

    @asynccontextmanager
    async def _body(self, row: Row, fetcher: Fetcher) -> AsyncIterator[Body]:
        if isinstance(row.image, ImageUrl):
            async with fetcher.fetched(row.image.url) as body:
                yield body
        else:
            async with self._reading:
                yield Body(_read(row.image, self._params.fetch.max_bytes), None)

    def _decoded(self, number: int, row: Row, body: Body) -> FetchResult:
        digest, size = hashlib.sha256(body.data).hexdigest(), len(body.data)
        came = FetchResult(FAILED_TO_RESIZE, "", digest, size, body.final_url)
        if isinstance(row.image, ImageUrl) and row.image.sha256 not in (None, digest):
            return replace(came, status=FAILED_TO_DOWNLOAD, reason="hash_mismatch")
        if number in self._deadly:
            return replace(came, reason="decoder_died")
        try:
            with self._tell.at(number, self._params.images.decode_deadline_seconds):
                picture = picture_of(body.data, self._params.images)
        except Refused as refused:
            return replace(came, reason=refused.reason)
        return self._kept(picture, came)

    def _drawn(self, image: ImageScene) -> FetchResult:
        pixels = np.array(render(image.scene, image.size))
        picture = jpeg_of(pixels, self._params.images, (image.size, image.size))
        digest = hashlib.sha256(picture.jpeg).hexdigest()
        return self._kept(picture, FetchResult(SUCCESS, "", digest, len(picture.jpeg)))

    def _kept(self, picture: Picture, came: FetchResult) -> FetchResult:
        return replace(
            came,
            status=SUCCESS,
            place=self._spool.put(picture.jpeg),
            width=picture.width,
            height=picture.height,
            original_width=picture.original_width,
            original_height=picture.original_height,
            orientation=picture.orientation,
            is_animated=picture.is_animated,
        )


def without_placeholders(
    rows: Sequence[Row | Rejection], taken: Sequence[FetchResult], max_urls_per_body: int
) -> list[FetchResult]:
    """Reject bytes that many urls answered with: "this image was removed" is no picture."""
    is_fetched = [isinstance(row, Row) and isinstance(row.image, ImageUrl) for row in rows]
    urls_of = Counter(one.sha256 for one, fetched in zip(taken, is_fetched, strict=True) if fetched)
    return [
        FetchResult(FAILED_TO_RESIZE, "placeholder_suspect", one.sha256, one.original_bytes, one.final_url)
        if fetched and one.status == SUCCESS and urls_of[one.sha256] > max_urls_per_body
        else one
        for one, fetched in zip(taken, is_fetched, strict=True)
    ]


def _described(row: Row, error: Exception) -> tuple[str, str]:
    """Return the kind of an error that nobody foresaw, and what is logged of the first one."""
    what = row.image.url if isinstance(row.image, ImageUrl) else getattr(row.image, "name", "a scene")
    text = (
        f"download: unexpected {type(error).__name__} while row {row.key} was taken "
        f"({without_credentials(str(what))}); the row is rejected as {UNEXPECTED} and counted, others "
        "of this kind are not logged; please report it with this traceback:\n"
    )
    return kind_of(error), text + "".join(traceback.format_exception(error)).rstrip()


def _read(image: Image | None, max_bytes: int) -> bytes:
    if isinstance(image, ImageMember):
        if image.size > max_bytes:
            raise Refused("too_large")
        return image.read()
    if not isinstance(image, ImageFile):
        raise Refused("no_image")
    if not image.path.is_file():
        raise Refused("image_missing")
    if image.path.stat().st_size > max_bytes:
        raise Refused("too_large")
    return image.path.read_bytes()
