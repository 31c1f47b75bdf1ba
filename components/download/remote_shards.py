"""Copy WebDataset shards from a web server or a bucket before their rows are read.

A row's key must be known to be the only one of its name before work begins, so every shard is looked through
first; what is then read is a file. A shard that came is here only once it was found to be whole; the next run
uses it again, and asks for the others. They go when the stage is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from braceexpand import braceexpand

from components.download.refusal import Refused
from components.errors import ConfigurationError, DataError, InfrastructureError
from components.running.progress import Progress
from components.running.signals import run_or_stop
from components.settings.download import Download, Fetch
from components.settings.sources import Shards
from components.sources.shard_rows import shard_contents
from components.sources.source_requirements import Inputs, is_far
from components.storage.atomic import new_file, remove
from components.storage.buckets.bucket import Bucket, open_bucket

if TYPE_CHECKING:
    from components.download.fetching import Fetcher

FILES_AT_ONCE = 4  # over HTTP; a bucket sends one in parts


def bring_shards(download: Download, inputs: Inputs, work: Path) -> None:
    """Bring the shards of all sources that have theirs elsewhere.

    Of a source with a limit no more shards come than hold so many rows, unless it is pinned.

    Raises:
        ConfigurationError: there is no such shard, or it may not be read.
        DataError: what came is no shard.
        InfrastructureError: no network, or a server that does not answer.
    """
    for source in download.sources:
        if is_far(source):
            _bring(source, inputs.of(source), download.fetch, work)


class Wanted:
    """The shards of a source.

    Args:
        source: From params.
        names: Of all its shards.
        folder: Where they come to.
        progress: Told of each that is here.

    Attributes:
        source: As it was given.
        paths: Those that are still to come, in their order and until there are rows enough.
    """

    def __init__(self, source: Shards, names: Sequence[str], folder: Path, progress: Progress) -> None:
        self.source, self._progress, self._rows = source, progress, 0
        self._limit = None if source.sha256 else source.limit
        self.paths = self._left([folder / name for name in names])

    def _left(self, paths: Sequence[Path]) -> Iterator[Path]:
        for path in paths:
            if self._limit is not None and self._rows >= self._limit:
                return
            if path.is_file():
                try:
                    self.came(path, path)
                    continue
                except DataError:  # a disk may lose what it held
                    remove(path)
            yield path

    def came(self, path: Path, shard: Path) -> None:
        """Look through a shard that came; it may still have another name.

        Raises:
            DataError: it is none.
        """
        try:
            self._rows += len(shard_contents(self.source, shard).samples)
        except DataError as fault:
            found = str(fault).removeprefix(f"{shard} ")
            raise DataError(f"{self.source.place}/{path.name} came and {found}") from None
        self._progress.advance()


def _bring(source: Shards, folder: Path, fetch: Fetch, work: Path) -> None:
    bucket = open_bucket(source.place) if source.place.startswith("s3://") else None
    names = _names(source, bucket)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in {path.name for path in folder.iterdir()} - set(names):
        remove(folder / stale)
    progress = Progress(work, f"download shards of {source.name}", len(names), "shards")
    wanted = Wanted(source, names, folder, progress)
    if bucket:
        for path in wanted.paths:
            with new_file(path) as part:
                bucket.download_file(path.name, part, None)
                wanted.came(path, part)
    else:
        with asyncio.Runner() as runner:
            run_or_stop(runner, _fetch_all(wanted, fetch))


def _names(source: Shards, bucket: Bucket | None) -> list[str]:
    """Return the names of a source's shards, sorted as those of a folder are."""
    last = source.path.removeprefix(f"{source.place}/")
    if bucket is None or "*" not in last:
        return sorted(braceexpand(last))
    found = [name for name in bucket.names() if "/" not in name and fnmatchcase(name, last)]
    if not found:
        raise ConfigurationError(f"no object fits {source.path}; expected at least one: correct the path")
    return found


async def _fetch_all(wanted: Wanted, fetch: Fetch) -> None:
    from components.download.fetching import Fetcher  # an HTTP client, which few need in this process

    async with Fetcher(fetch) as fetcher:
        await asyncio.gather(*(_fetch_some(wanted, fetcher) for _ in range(FILES_AT_ONCE)))


async def _fetch_some(wanted: Wanted, fetcher: Fetcher) -> None:
    for path in wanted.paths:
        url = f"{wanted.source.place}/{path.name}"
        with new_file(path) as part:
            try:
                await fetcher.saved(url, part)
            except Refused as refused:
                if refused.may_pass:
                    raise InfrastructureError(f"{url}: {refused.reason}; run again later") from None
                raise ConfigurationError(
                    f"{url}: {refused.reason}; expected a shard: correct the path of download.sources "
                    f"{wanted.source.name}, or what download.fetch allows"
                ) from None
            wanted.came(path, part)
