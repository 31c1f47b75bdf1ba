"""Copy WebDataset shards from a web server or a bucket before their rows are read.

Keys must be checked for duplicates before work begins, so every shard is read once first, and then again from
its local copy. A shard is stored under its final name only after it was found to be complete. The next run
reuses such shards and fetches the others. The stage removes all copies when it is done.
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

FILES_AT_ONCE = 4  # over HTTP; a bucket sends one file at a time, in parts


def bring_shards(download: Download, inputs: Inputs, work: Path) -> None:
    """Copy the shards of all sources whose shards are remote.

    For a source with a limit, copy only as many shards as hold so many rows, unless the source is pinned.

    Raises:
        ConfigurationError: a shard does not exist, or may not be read.
        DataError: a copied file is no shard.
        InfrastructureError: no network, or a server that does not answer.
    """
    for source in download.sources:
        if is_far(source):
            _copy_shards(source, inputs.of(source), download.fetch, work)


class Wanted:
    """The shards of one source that are still to be copied.

    Args:
        source: The source, from params.
        names: File names of all its shards.
        folder: Where the copies go.
        progress: Advanced by one for each shard that is complete.

    Attributes:
        source: The source, from params.
        paths: Iterator over the missing shards, in order, until there are enough rows.
    """

    def __init__(self, source: Shards, names: Sequence[str], folder: Path, progress: Progress) -> None:
        self.source, self._progress, self._rows = source, progress, 0
        self._limit = None if source.sha256 else source.limit
        self.paths = self._missing_paths([folder / name for name in names])

    def _missing_paths(self, paths: Sequence[Path]) -> Iterator[Path]:
        for path in paths:
            if self._limit is not None and self._rows >= self._limit:
                return
            if path.is_file():
                try:
                    self.came(path, path)
                    continue
                except DataError:  # the disk may have damaged it
                    remove(path)
            yield path

    def came(self, path: Path, shard: Path) -> None:
        """Check a copied shard and count its rows.

        Args:
            path: Final path of the copy.
            shard: File to read, maybe still under a temporary name.

        Raises:
            DataError: the file is no complete shard.
        """
        try:
            self._rows += len(shard_contents(self.source, shard).samples)
        except DataError as error:
            problem = str(error).removeprefix(f"{shard} ")
            raise DataError(f"{self.source.location}/{path.name} came and {problem}") from None
        self._progress.advance()


def _copy_shards(source: Shards, folder: Path, fetch: Fetch, work: Path) -> None:
    bucket = open_bucket(source.location) if source.location.startswith("s3://") else None
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
    """Return the file names of a source's shards, sorted like the files of a folder."""
    pattern = source.path.removeprefix(f"{source.location}/")
    if bucket is None or "*" not in pattern:
        return sorted(braceexpand(pattern))
    names = [name for name in bucket.names() if "/" not in name and fnmatchcase(name, pattern)]
    if not names:
        raise ConfigurationError(f"no object fits {source.path}; expected at least one; correct the path")
    return names


async def _fetch_all(wanted: Wanted, fetch: Fetch) -> None:
    from components.download.fetching import Fetcher  # imports an HTTP client, which few runs need here

    async with Fetcher(fetch) as fetcher:
        await asyncio.gather(*(_fetch_next(wanted, fetcher) for _ in range(FILES_AT_ONCE)))


async def _fetch_next(wanted: Wanted, fetcher: Fetcher) -> None:
    for path in wanted.paths:
        url = f"{wanted.source.location}/{path.name}"
        with new_file(path) as part:
            try:
                await fetcher.saved(url, part)
            except Refused as refused:
                if refused.may_pass:
                    raise InfrastructureError(f"{url}: {refused.reason}; rerun later") from None
                raise ConfigurationError(
                    f"{url}: {refused.reason}; expected a shard; correct the path of download.sources "
                    f"{wanted.source.name}, or what download.fetch allows"
                ) from None
            wanted.came(path, part)
