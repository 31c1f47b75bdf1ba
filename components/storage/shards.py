"""WebDataset shards of image-caption pairs: `<key>.jpg`, `<key>.txt`, `<key>.json` per pair."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from components.errors import DataError
from components.storage.atomic import new_file
from components.storage.bulk import local_copy
from components.storage.manifest import Entry, read_manifest
from components.storage.tar_index import tar_index


@dataclass(frozen=True)
class Pair:
    """One image with its captions; `metadata` is the `.json` member (split, labels, captions, ...)."""

    key: str
    jpeg: bytes
    caption: str
    metadata: dict[str, Any] = field(default_factory=dict)


def write_shard(path: Path, pairs: Iterable[Pair]) -> int:
    """Write a shard whose bytes depend on the pairs alone; return the number of pairs."""
    from webdataset import TarWriter  # imports torch

    count = 0
    with new_file(path) as part, part.open("wb") as stream:
        writer = TarWriter(stream, encoder=False, mtime=0, user="root", group="root")
        try:
            for pair in pairs:
                writer.write(_sample(pair))
                count += 1
        except BaseException:
            with suppress(OSError):
                writer.close()  # else tarfile tries again, too late, and prints a traceback
            raise
        writer.close()
    return count


def _sample(pair: Pair) -> dict[str, Any]:
    metadata = json.dumps(pair.metadata, sort_keys=True, ensure_ascii=False)
    return {
        "__key__": pair.key,
        "jpg": pair.jpeg,
        "json": metadata.encode(),
        "txt": pair.caption.encode(),
    }


def read_shard(path: Path, rows: int | None = None) -> Iterator[Pair]:
    """Read a shard.

    The index of `tar_index` is read first: it sees a cut that a reader of streams takes for the end, and
    costs less than webdataset's reader, which imports torch into every process that reads a shard.

    Args:
        path: A local tar file.
        rows: How many pairs its manifest promises; None where nobody promised.

    Raises:
        DataError: the tar is cut or holds other than `rows` whole pairs.
    """
    count = 0
    try:
        for key, parts in _samples(path):
            pair = Pair(key, parts["jpg"], parts["txt"].decode(), json.loads(parts["json"]))
            count += 1
            yield pair
    except (DataError, OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} is damaged after {count} pairs ({error}); `dvc checkout --force` restores it"
        ) from None
    if rows is not None and count != rows:
        raise DataError(
            f"{path} holds {count} pairs, its manifest says {rows}; `dvc checkout --force` restores it"
        )


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the files of each key by their kind; a key's files lie side by side, and no key comes twice."""
    members = tar_index(path)
    seen: set[str] = set()
    with path.open("rb") as file:
        for key, of_key in groupby(members, lambda member: member.name.partition(".")[0]):
            if key in seen:
                raise ValueError(f"{key} occurs twice")
            seen.add(key)
            parts: dict[str, bytes] = {}
            for member in of_key:
                kind = member.name.partition(".")[2]
                if kind in parts:
                    raise ValueError(f"{member.name} occurs twice")
                parts[kind] = member.read(file)
            yield key, parts


def read_pairs(folder: Path, shard: Entry, work: Path) -> Iterator[Pair]:
    """Read a shard of a folder, wherever its bytes are (see `storage.bulk.local_copy`).

    Args:
        folder: Of the manifest that lists it.
        shard: As `shards_of` gave it.
        work: The stage's folder in the work store.

    Raises:
        DataError: it is missing or damaged, or holds other than the promised number of pairs.
    """
    with local_copy(folder, shard, work) as path:
        yield from read_shard(path, shard.rows)


def shards_of(folder: Path) -> list[Entry]:
    """Return the shards of a folder; verifies all of it by its manifest, but for shards in a bucket."""
    return [entry for entry in read_manifest(folder) if entry.is_shard]
