"""Read rows from existing WebDataset shards: img2dataset's output, or tars of the same layout.

A sample is the set of files that share a name up to the last dot: `0001.jpg` and `0001.txt`, or
`frame.0001.jpg` and `frame.0001.txt`. If an image's name has one dot, files of the same key with more dots
are further parts of that sample, as WebDataset reads them (`0001.seg.png`), unless they are an image with its
own caption. Such parts and members of other kinds are not read; their number is logged. An image stays in its
tar and is addressed by its offset.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import IO

from components.errors import DataError
from components.settings.sources import Shards
from components.sources.files import Files, check_pin, named_files
from components.sources.row import Image, ImageMember, Rejection, Row
from components.sources.sample_files import (
    IMAGE,
    MAX_TEXT_BYTES,
    Sample,
    SampleReader,
    row_of,
    samples_by_stem,
)
from components.sources.values import Rejected, whole_text
from components.storage.tar_index import Member, tar_index

NAMES_LOGGED = 5
log = logging.getLogger("llm2clip")


@dataclass(frozen=True)
class ShardContents:
    """The samples of a shard in order, and the number of unread members by kind."""

    samples: list[Sample[Member]]
    unread: Counter[str]


def read_shards(source: Shards, inputs: Path) -> Iterator[Row | Rejection]:
    """Yield the samples of each shard in order; the index of one shard is in memory.

    A key is made of the names of the source, the shard and the sample, because each shard may count from
    zero. A tar without members has no samples; WebDataset's writer may leave such a tar.

    Args:
        source: From params.
        inputs: The folder the source's path is relative to; for downloaded shards, the folder they are in.

    Raises:
        ConfigurationError: no shard fits the path.
        DataError: a shard is cut, damaged, compressed, not the pinned one, holds anything but plain files,
            holds no file of a sample, or has a key twice; or all shards are empty.
    """
    files = named_files(inputs, "." if source.is_far else source.path, (".tar",))
    check_pin(inputs, files.paths, source.sha256)
    yield from islice(_rows(source, files), source.limit)


def _rows(source: Shards, files: Files) -> Iterator[Row | Rejection]:
    unread: Counter[str] = Counter()
    empty: list[str] = []
    try:
        for path in files.paths:
            contents = shard_contents(source, path)
            unread += contents.unread
            if not contents.samples:
                empty.append(files.name_of(path))
            yield from _rows_of_shard(source, path, files.name_of(path), contents)
    finally:  # a limit may end the loop
        _log_empty_and_unread(source, files, empty, unread)
    if len(empty) == len(files.paths):
        raise DataError(
            f"{files.paths[0]} holds no file, and no other shard of sources.{source.name} holds one; "
            "expected members KEY.jpg and KEY.txt or KEY.json: pack them again"
        )


def _rows_of_shard(
    source: Shards, path: Path, name: str, contents: ShardContents
) -> Iterator[Row | Rejection]:
    prefix = (name[: -len(".tar")] if name.lower().endswith(".tar") else name).replace("/", "_")
    with path.open("rb") as file:
        for sample in contents.samples:
            reader = SampleReader(
                key=f"{prefix}_{sample.stem}",
                where=f"{name} sample {sample.stem}",
                image=partial(_image, path, name, sample),
                text=partial(_text, file, sample),
            )
            yield row_of(source, reader)


def shard_contents(source: Shards, path: Path) -> ShardContents:
    """Return the samples of a shard, and its unread members; both are empty for a tar without members.

    Args:
        source: From params; says which captions to read.
        path: The shard's path.

    Raises:
        DataError: the shard is cut, damaged, compressed, holds anything but plain files, holds no file of a
            sample, or has a key twice.
    """
    members = tar_index(path)
    samples: list[Sample[Member]] = []
    unread: Counter[str] = Counter()
    for key, by_name in _members_by_key(path, members).items():
        key_samples = _samples_of_key(source, key, by_name)
        samples += key_samples
        read = {member.name for sample in key_samples for files in sample.files.values() for member in files}
        unread.update(name[len(key) + 1 :].lower() for name in by_name if name not in read)
    if members and not samples:
        raise DataError(
            f"{path} holds no image and no caption; expected members KEY.jpg and KEY.txt or KEY.json"
        )
    return ShardContents(samples, unread)


def _members_by_key(path: Path, members: list[Member]) -> dict[str, dict[str, Member]]:
    """Group members by WebDataset key, then by name; a key ends at the first dot of a file name."""
    keys: dict[str, dict[str, Member]] = {}
    previous_key = None
    for member in members:
        folder, slash, name = member.name.rpartition("/")
        stem, dot, _ = name.partition(".")
        if not stem or not dot:
            continue
        key = f"{folder}{slash}{stem}"
        if key in keys and (key != previous_key or member.name in keys[key]):
            raise DataError(
                f"{path} holds {member.name} twice, or apart from the other files of its key; expected the "
                "files of a key side by side: pack it again"
            )
        previous_key = key
        keys.setdefault(key, {})[member.name] = member
    return keys


def _samples_of_key(source: Shards, key: str, members: dict[str, Member]) -> list[Sample[Member]]:
    samples = samples_by_stem(members.items())
    if key not in samples or IMAGE not in samples[key].files:
        return list(samples.values())
    captions = {caption.column.partition(".")[0] for caption in source.captions}
    return [
        sample
        for stem, sample in samples.items()
        if stem == key or (IMAGE in sample.files and not captions.isdisjoint(sample.files))
    ]


def _image(path: Path, name: str, sample: Sample[Member]) -> Image:
    member = sample.only(IMAGE)
    if member is None:
        raise Rejected("no_image")
    return ImageMember(path, whole_text(f"{name}/{member.name}"), member.offset, member.size)


def _text(file: IO[bytes], sample: Sample[Member], kind: str) -> bytes | None:
    member = sample.only(kind)
    if member is None:
        return None
    if member.size > MAX_TEXT_BYTES:
        raise Rejected("too_large")
    return member.read(file)


def _log_empty_and_unread(source: Shards, files: Files, empty: list[str], unread: Counter[str]) -> None:
    prefix = f"source {source.name}, {files.paths[0].parent}"
    if empty:
        names = ", ".join(empty[:NAMES_LOGGED])
        _log_once(f"{prefix}: empty shards: {len(empty)} of {len(files.paths)} ({names})")
    if unread:
        kinds = ", ".join(
            f"{kind or 'no suffix'} {count}" for kind, count in unread.most_common(NAMES_LOGGED)
        )
        _log_once(f"{prefix}: members beside the samples that are not read: {unread.total()} ({kinds})")


@cache
def _log_once(message: str) -> None:
    """Log a message once, although sources are read twice."""
    log.warning(message)
