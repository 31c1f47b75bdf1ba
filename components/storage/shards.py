"""Read and write WebDataset shards of image-caption pairs: `<key>.jpg`, `<key>.txt`, `<key>.json` per pair.

Two tables say which pairs of `shards/00000.tar` are in use, with captions, splits and labels as they are now:
`captions/00000.parquet` (`side_tables.CAPTIONS`) and `images/00000.parquet` (`IMAGES`), in the order of the
tar. It may hold further pairs, and older texts. The tables have folders of their own: other readers of such
shards take every parquet file beside the tars for a ledger.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.errors import DataError
from components.storage.atomic import new_file
from components.storage.bulk import SHARDS, local_copy
from components.storage.manifest import Entry, read_manifest
from components.storage.side_tables import Caption, read_captions, read_table
from components.storage.tar_index import tar_index

TABLE_FOLDERS = ("captions", "images")
ROWS = "rows"  # folder of the ledgers as of today: every row of the lists, rejected ones too
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
    """Write a shard, whose bytes depend only on the pairs; return their number."""
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
                writer.close()  # otherwise tarfile tries again later and prints a traceback
            raise
        writer.close()
    return count


def caption_fields(caption: Caption) -> dict[str, Any]:
    """Return a caption as the metadata of its pair holds it, which have key and split."""
    return {name: value for name, value in vars(caption).items() if name not in ("key", "split")}


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


def pairs_in_use(folder: Path, shard: Entry, work: Path) -> Iterator[Pair]:
    """Read the pairs of a shard that its tables list, with split, labels and captions as they are now.

    Args:
        folder: Folder of `artifacts/download`; the caller verifies the tables.
        shard: An entry from `shards_of`.
        work: The stage's folder in the work store.

    Raises:
        DataError: see `read_pairs`; or a pair that the tables list is missing.
    """
    images = {image["key"]: image for image in image_table(folder, shard).to_pylist()}
    captions: dict[str, list[dict[str, Any]]] = {key: [] for key in images}
    for caption in source_captions(folder, shard):
        captions[caption.key].append(caption_fields(caption))
    for pair in read_pairs(folder, shard, work):
        if image := images.pop(pair.key, None):
            of_key = captions[pair.key]
            now = {"split": image["split"], "labels": dict(image["labels"]), "captions": of_key}
            text = of_key[0]["text"] if of_key else pair.caption
            yield replace(pair, caption=text, metadata={**pair.metadata, **now})
    if images:
        raise DataError(
            f"{folder / shard.path} lacks {len(images)} pairs of its tables (first {min(images)}); "
            "`dvc checkout --force` restores it"
        )


def shards_of(folder: Path) -> list[Entry]:
    """Return the shards of a folder; verifies its local files by the manifest."""
    return [entry for entry in read_manifest(folder) if entry.is_shard]
