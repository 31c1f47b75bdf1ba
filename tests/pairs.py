"""Shards with their tables, made from pairs as download makes them from rows."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import pyarrow as pa

from components.storage.shards import IMAGES, Pair, tables_of, write_shard
from components.storage.side_tables import Caption, write_captions, write_table


def write_pairs(path: Path, pairs: Iterable[Pair]) -> int:
    """Write a shard and its tables; return the number of pairs."""
    pairs = list(pairs)
    put_in_use(path, pairs)
    return write_shard(path, pairs)


def put_in_use(path: Path, pairs: Iterable[Pair]) -> None:
    """Write the tables of a shard, which say that these pairs of its tar are in use."""
    captions, images = [], []
    for pair in pairs:
        split, labels = pair.metadata.get("split", ""), pair.metadata.get("labels", {})
        captions += [Caption(key=pair.key, split=split, **one) for one in pair.metadata.get("captions", [])]
        digest = sha256(pair.jpeg).hexdigest()
        images.append({"key": pair.key, "split": split, "sha256": digest, "labels": labels})
    captions_path, images_path = tables_of(path)
    write_captions(captions_path, captions)
    write_table(images_path, pa.Table.from_pylist(images, IMAGES))
