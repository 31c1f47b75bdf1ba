"""Fetch, read or render the images of a shard concurrently."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import traceback
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import torch

from components.download.answers import Body
from components.download.fetching import Fetcher
from components.download.ledger import FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE, SUCCESS, FetchResult
from components.download.pictures import Picture, jpeg_of, picture_of
from components.download.refusal import UNEXPECTED, Refused
from components.download.spool import Spool
from components.errors import PipelineError
from components.running.jobs import ProgressReporter
from components.settings.download import Download
from components.sources.drafts import kind_of
from components.sources.row import without_credentials
from components.sources.rows import Image, ImageFile, ImageMember, ImageScene, ImageUrl, Row
from components.sources.scenes.scene import render

FILES_IN_MEMORY = 4
MACHINE_ERRORS = frozenset(  # errors of the machine, which would fail every row
    {
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE,
        errno.ESTALE, errno.EACCES, errno.EPERM,
    }
)  # fmt: skip
ROWS_UNDER_WAY = 1000  # many more than connections: one slow host must not block the rows of all others


class ShardFetcher:
    """Fetch and decode the rows of one shard.

    Args:
        params: Params of download.
        spool: Where the JPEGs go.
        reporter: Counts finished rows, and knows which row is being decoded.
        deadly: Indices of rows whose decoding crashed the process before.
    """

    def __init__(
        self, params: Download, spool: Spool, reporter: ProgressReporter, deadly: frozenset[int]
    ) -> None:
        self._params, self._spool, self._reporter, self._deadly = params, spool, reporter, deadly
        self._file_slots = asyncio.Semaphore(FILES_IN_MEMORY)

    def all(self, rows: Sequence[Row], known: Mapping[int, FetchResult]) -> list[FetchResult]:
        """Return a result for every row, in row order; skip rows whose result is `known` by index."""
        torch.set_num_threads(1)  # one process per core
        return asyncio.run(self._fetch_all(rows, known))

    def again(self, rows: Sequence[Row], settled: Mapping[int, FetchResult]) -> list[FetchResult]:
        """Fetch the rows that are not settled once more; they were counted before."""
        self._reporter = self._reporter.uncounted()
        return self.all(rows, settled)

    async def _fetch_all(self, rows: Sequence[Row], known: Mapping[int, FetchResult]) -> list[FetchResult]:
        results = dict(known)
        pending = iter([index for index in range(len(rows)) if index not in known])
        self._reporter.advance(len(known))
        with ThreadPoolExecutor(1) as decoder:  # one image at a time, so that a crash has one cause
            async with Fetcher(self._params.fetch) as fetcher:

                async def fetch_pending() -> None:
                    for index in pending:
                        results[index] = await self._fetch_row(index, rows[index], fetcher, decoder)
                        self._reporter.advance()

                count = min(len(rows), ROWS_UNDER_WAY)
                tasks = [asyncio.create_task(fetch_pending()) for _ in range(count)]
                try:
                    await asyncio.gather(*tasks)
                finally:
                    for task in tasks:
                        task.cancel()  # after an error no task may use the closed client
        return [results[index] for index in range(len(rows))]

    async def _fetch_row(
        self, index: int, row: Row, fetcher: Fetcher, decoder: ThreadPoolExecutor
    ) -> FetchResult:
        try:
            return await self._fetch_and_decode(index, row, fetcher, decoder)
        except Refused as refused:
            return FetchResult(FAILED_TO_DOWNLOAD, refused.reason)
        except Exception as error:  # one bad row must never end the stage
            if (
                isinstance(error, PipelineError | MemoryError)
                or getattr(error, "errno", None) in MACHINE_ERRORS
            ):
                raise
            self._reporter.warn(*_described(row, error))
            return FetchResult(FAILED_TO_DOWNLOAD, UNEXPECTED)

    async def _fetch_and_decode(
        self, index: int, row: Row, fetcher: Fetcher, decoder: ThreadPoolExecutor
    ) -> FetchResult:
        loop = asyncio.get_running_loop()
        if isinstance(row.image, ImageScene):
            return await loop.run_in_executor(decoder, self._render, row.image)
        async with self._body(row, fetcher) as body:
            return await loop.run_in_executor(decoder, self._decode, index, row, body)

    @asynccontextmanager
    async def _body(self, row: Row, fetcher: Fetcher) -> AsyncIterator[Body]:
        if isinstance(row.image, ImageUrl):
            async with fetcher.fetched(row.image.url) as body:
                yield body
        else:
            async with self._file_slots:
                yield Body(_read(row.image, self._params.fetch.max_bytes), None)

    def _decode(self, index: int, row: Row, body: Body) -> FetchResult:
        digest, size = hashlib.sha256(body.data).hexdigest(), len(body.data)
        result = FetchResult(FAILED_TO_RESIZE, "", digest, size, body.final_url)
        if isinstance(row.image, ImageUrl) and row.image.sha256 not in (None, digest):
            return replace(result, status=FAILED_TO_DOWNLOAD, reason="hash_mismatch")
        if index in self._deadly:
            return replace(result, reason="decoder_died")
        try:
            with self._reporter.at(index, self._params.images.decode_deadline_seconds):
                picture = picture_of(body.data, self._params.images)
        except Refused as refused:
            return replace(result, reason=refused.reason)
        return self._with_picture(picture, result)

    def _render(self, image: ImageScene) -> FetchResult:
        pixels = np.array(render(image.scene, image.size))
        picture = jpeg_of(pixels, self._params.images, (image.size, image.size))
        digest = hashlib.sha256(picture.jpeg).hexdigest()
        return self._with_picture(picture, FetchResult(SUCCESS, "", digest, len(picture.jpeg)))

    def _with_picture(self, picture: Picture, result: FetchResult) -> FetchResult:
        return replace(
            result,
            status=SUCCESS,
            spooled=self._spool.put(picture.jpeg),
            jpeg_sha256=hashlib.sha256(picture.jpeg).hexdigest(),
            width=picture.width,
            height=picture.height,
            original_width=picture.original_width,
            original_height=picture.original_height,
            orientation=picture.orientation,
            is_animated=picture.is_animated,
        )


def _described(row: Row, error: Exception) -> tuple[str, str]:
    """Return the kind of an unexpected error, and the message to log for the first one of its kind."""
    name = row.image.url if isinstance(row.image, ImageUrl) else getattr(row.image, "name", "a scene")
    text = (
        f"download: unexpected {type(error).__name__} in row {row.key} "
        f"({without_credentials(str(name))}); the row is rejected as {UNEXPECTED} and counted; further "
        "errors of this kind are not logged; please report it with this traceback:\n"
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
