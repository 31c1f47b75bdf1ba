"""Read and write WebDataset shards of image-caption pairs: `<key>.jpg`, `<key>.txt`, `<key>.json` per pair.

Two tables hold the content of `shards/00000.tar` without the pixels, so that no stage reads a tar for texts:
`captions/00000.parquet` (`side_tables.CAPTIONS`) and `images/00000.parquet` (`IMAGES`). They have folders of
their own: other readers of such shards take every parquet file beside the tars for a ledger.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.errors import DataError
from components.storage.atomic import link_or_copy, new_file, new_folder
from components.storage.bulk import SHARDS, local_copy
from components.storage.manifest import SHARD_SUFFIX, Entry, listed, read_manifest, write_manifest
from components.storage.side_tables import Caption, read_captions, read_table, write_captions, write_table
from components.storage.tar_index import tar_index

TABLE_FOLDERS = ("captions", "images")
IMAGES = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("sha256", pa.string()),  # of the JPEG
        ("labels", pa.map_(pa.string(), pa.list_(pa.string()))),  # values by the label's name
    ]
)


@dataclass(frozen=True)
class Pair:
    """One image with its captions; `metadata` is the `.json` member (split, labels, captions, ...)."""

    key: str
    jpeg: bytes
    caption: str
    metadata: dict[str, Any] = field(default_factory=dict)


def write_shard(path: Path, pairs: Iterable[Pair]) -> int:
    """Write a shard and its tables, whose bytes depend only on the pairs; return the number of pairs.

    Raises:
        DataError: UTF-8 cannot encode a caption.
    """
    from webdataset import TarWriter  # imports torch

    count, tables = 0, _SideTables()
    with new_file(path) as part, part.open("wb") as stream:
        writer = TarWriter(stream, encoder=False, mtime=0, user="root", group="root")
        try:
            for pair in pairs:
                writer.write(_sample(pair))
                tables.add(pair)
                count += 1
        except BaseException:
            with suppress(OSError):
                writer.close()  # otherwise tarfile tries again later and prints a traceback
            raise
        writer.close()
    tables.write(path)
    return count


class _SideTables:
    """Collects the side tables of a shard, pair by pair."""

    def __init__(self) -> None:
        self._captions: list[Caption] = []
        self._images: list[dict[str, Any]] = []

    def add(self, pair: Pair) -> None:
        """Add a pair."""
        split = pair.metadata.get("split", "")
        self._captions += [
            Caption(key=pair.key, split=split, **caption) for caption in pair.metadata.get("captions", [])
        ]
        labels, digest = pair.metadata.get("labels", {}), sha256(pair.jpeg).hexdigest()
        self._images.append({"key": pair.key, "split": split, "sha256": digest, "labels": labels})

    def write(self, path: Path) -> None:
        """Write both of a shard."""
        captions, images = tables_of(path)
        try:
            write_captions(captions, self._captions)
        except UnicodeEncodeError:
            key = next(caption.key for caption in self._captions if not is_storable(caption.text))
            raise DataError(
                f"{path.name}: a caption of {key} holds half a character; expected text: "
                "run `llm2clip forget --fetched download shards`"
            ) from None
        write_table(images, pa.Table.from_pylist(self._images, IMAGES))


def add_side_tables(piece_folder: Path, work: Path) -> None:
    """Add missing side tables to the shards of a cached result; earlier versions wrote none.

    Args:
        piece_folder: Folder of the cached result; it is rewritten with the same files and the tables.
        work: The stage's folder in the work store.

    Raises:
        DataError: a shard is damaged, or UTF-8 cannot encode a caption.
    """
    entries = listed(piece_folder)
    with_tables = {entry.name for entry in entries if entry.path.startswith(f"{TABLE_FOLDERS[1]}/")}
    shards = [entry for entry in entries if entry.is_shard and entry.name not in with_tables]
    if not shards:
        return
    with new_folder(piece_folder) as part:
        for shard in shards:
            tables = _SideTables()
            for pair in read_pairs(piece_folder, shard, work):
                tables.add(pair)
            tables.write(part / f"{shard.name}{SHARD_SUFFIX}")
        for entry in entries:
            if not entry.is_remote:
                link_or_copy(piece_folder / entry.uri, part / entry.uri)
        write_manifest(part, known=entries)


def source_captions(folder: Path, shard: Entry) -> list[Caption]:
    """Return the captions that the source gave a shard's images; the caller verifies the manifest."""
    return read_captions(tables_of(folder / shard.path)[0])


def image_table(folder: Path, shard: Entry) -> pa.Table:
    """Return `IMAGES` of a shard, in the order of its pairs; the caller verifies the manifest."""
    return read_table(tables_of(folder / shard.path)[1], IMAGES)


def tables_of(path: Path) -> tuple[Path, Path]:
    """Return the paths of a shard's captions and images, from that of its tar, there or not."""
    folder = path.parent.parent if path.parent.name == SHARDS else path.parent
    captions, images = (folder / name / f"{path.stem}.parquet" for name in TABLE_FOLDERS)
    return captions, images


def is_storable(text: str) -> bool:
    """Return whether UTF-8 can encode a text: it has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sample(pair: Pair) -> dict[str, Any]:
    metadata = json.dumps(pair.metadata, sort_keys=True, ensure_ascii=False)
    return {
        "__key__": pair.key,
        "jpg": pair.jpeg,
        "json": metadata.encode(),
        "txt": pair.caption.encode(),
    }


def read_shard(path: Path, rows: int | None = None) -> Iterator[Pair]:
    """Read the pairs of a shard.

    The index of `tar_index` is read first. It detects a cut file, which a stream reader takes for the end,
    and it costs less than webdataset's reader, which imports torch into every process that reads a shard.

    Args:
        path: A local tar file.
        rows: Number of pairs in the manifest; None if it is unknown.

    Raises:
        DataError: the tar is cut, or does not hold `rows` whole pairs.
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
    """Yield the files of each key by kind; a key's files must be adjacent, and no key may come twice."""
    members = tar_index(path)
    seen: set[str] = set()
    with path.open("rb") as file:
        for key, key_members in groupby(members, lambda member: member.name.partition(".")[0]):
            if key in seen:
                raise ValueError(f"{key} occurs twice")
            seen.add(key)
            parts: dict[str, bytes] = {}
            for member in key_members:
                kind = member.name.partition(".")[2]
                if kind in parts:
                    raise ValueError(f"{member.name} occurs twice")
                parts[kind] = member.read(file)
            yield key, parts


def read_pairs(folder: Path, shard: Entry, work: Path) -> Iterator[Pair]:
    """Read the pairs of a shard, local or in a bucket (see `storage.bulk.local_copy`).

    Args:
        folder: Folder of the manifest that lists the shard.
        shard: An entry from `shards_of`.
        work: The stage's folder in the work store.

    Raises:
        DataError: the shard is missing or damaged, or its number of pairs differs from the manifest.
    """
    with local_copy(folder, shard, work) as path:
        yield from read_shard(path, shard.rows)


def shards_of(folder: Path) -> list[Entry]:
    """Return the shards of a folder; verifies its local files by the manifest."""
    return [entry for entry in read_manifest(folder) if entry.is_shard]
