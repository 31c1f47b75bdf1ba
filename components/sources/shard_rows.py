"""Rows of WebDataset shards that are there already: img2dataset's output, or any tars of its layout.

A sample is made of the files that share a name up to the last dot: `0001.jpg`, `0001.txt`, and as well
`frame.0001.jpg`, `frame.0001.txt`. Beside an image whose name has one dot, files with more dots are what
WebDataset takes them for, further parts of the same sample (`0001.seg.png`), unless they are an image with a
caption of its own. Such parts, and members of other kinds, are not read; how many there are is logged. An
image stays in its tar and is named by its offset there.
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
    """What a shard holds: its samples in their order, and how many members of which kinds are not read."""

    samples: list[Sample[Member]]
    unread: Counter[str]


def read_shards(source: Shards, inputs: Path) -> Iterator[Row | Rejection]:
    """Yield the samples of each shard in their order; the index of one shard is in memory.

    Keys are made of the source's name, the shard's and the sample's, for shards may count from zero each. A
    tar without members, as WebDataset's writer may leave one, has no samples.

    Args:
        source: From params.
        inputs: The folder its path is relative to; for shards that were brought here, the one they are in.

    Raises:
        ConfigurationError: no shard fits the path.
        DataError: a shard is cut, damaged, compressed, not the pinned one, holds other than plain files or no
            file of a sample, or a key occurs twice in it; or all shards are empty.
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
    finally:  # a limit may end it
        _log_what_is_left_out(source, files, empty, unread)
    if len(empty) == len(files.paths):
        raise DataError(
            f"{files.paths[0]} holds no file, and no other shard of sources.{source.name} holds one; "
            "expected members KEY.jpg and KEY.txt or KEY.json: pack them again"
        )


def _rows_of_shard(
    source: Shards, path: Path, name: str, contents: ShardContents
) -> Iterator[Row | Rejection]:
    of_shard = (name[: -len(".tar")] if name.lower().endswith(".tar") else name).replace("/", "_")
    with path.open("rb") as file:
        for sample in contents.samples:
            reader = SampleReader(
                key=f"{of_shard}_{sample.stem}",
                where=f"{name} sample {sample.stem}",
                image=partial(_image, path, name, sample),
                text=partial(_text, file, sample),
            )
            yield row_of(source, reader)


def shard_contents(source: Shards, path: Path) -> ShardContents:
    """Return what a shard holds; nothing, if it is a tar without members.

    Args:
        source: From params; says which captions are asked for.
        path: Of the shard.

    Raises:
        DataError: it is cut, damaged, compressed, holds other than plain files or no file of a sample, or a
            key occurs twice.
    """
    members = tar_index(path)
    samples: list[Sample[Member]] = []
    unread: Counter[str] = Counter()
    for key, of_key in _by_key(path, members).items():
        chosen = _samples_of_key(source, key, of_key)
        samples += chosen
        read = {member.name for sample in chosen for files in sample.files.values() for member in files}
        unread.update(name[len(key) + 1 :].lower() for name in of_key if name not in read)
    if members and not samples:
        raise DataError(
            f"{path} holds no image and no caption; expected members KEY.jpg and KEY.txt or KEY.json"
        )
    return ShardContents(samples, unread)


def _by_key(path: Path, members: list[Member]) -> dict[str, dict[str, Member]]:
    """Return the members of each of WebDataset's keys by name: a key ends at the first dot of a file name."""
    keys: dict[str, dict[str, Member]] = {}
    last = None
    for member in members:
        folder, slash, name = member.name.rpartition("/")
        stem, dot, _ = name.partition(".")
        if not stem or not dot:
            continue
        key = f"{folder}{slash}{stem}"
        if key in keys and (key != last or member.name in keys[key]):
            raise DataError(
                f"{path} holds {member.name} twice, or apart from the other files of its key; expected the "
                "files of a key side by side: pack it again"
            )
        last = key
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


def _log_what_is_left_out(source: Shards, files: Files, empty: list[str], unread: Counter[str]) -> None:
    place = f"source {source.name}, {files.paths[0].parent}"
    if empty:
        names = ", ".join(empty[:NAMES_LOGGED])
        _log_once(f"{place}: empty shards: {len(empty)} of {len(files.paths)} ({names})")
    if unread:
        kinds = ", ".join(
            f"{kind or 'no suffix'} {count}" for kind, count in unread.most_common(NAMES_LOGGED)
        )
        _log_once(f"{place}: members beside the samples that are not read: {unread.total()} ({kinds})")


@cache
def _log_once(message: str) -> None:
    """Log a line; sources are read twice."""
    log.warning(message)
