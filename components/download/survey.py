"""A first look at all rows, before anything is fetched: how many, and whether keys or urls repeat."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from components.faults import ConfigurationFault, DataFault
from components.settings.download import Download
from components.settings.sources import SceneTexts, TextTable, Weighted
from components.sources.mixture import mixed
from components.sources.rows import ImageUrl, Rejection, Row, read_rows


@dataclass(frozen=True)
class Survey:
    """What is known of the rows before the work begins."""

    image_rows: int
    text_rows: int
    repeated_urls: frozenset[int]  # digests


def survey(params: Download, inputs: Path, seed: int) -> Survey:
    """Read every source once; eight bytes a row are kept.

    Raises:
        ConfigurationFault: a table or column is missing, or no source gives images.
        DataFault: a table is damaged, or two rows have one key.
    """
    images, texts = 0, 0
    keys, urls = array("Q"), array("Q")
    for row in image_rows(params, inputs, seed):
        images += 1
        if isinstance(row, Row):
            keys.append(digest_of(row.key))
            if isinstance(row.image, ImageUrl):
                urls.append(digest_of(row.image.url))
    for row in text_rows(params, inputs, seed):
        texts += 1
        if isinstance(row, Row):
            keys.append(digest_of(row.key))
    if images == 0:
        raise ConfigurationFault(
            "download.sources gives no image row; add a source of images, a url_list say"
        )
    _refuse_equal_keys(params, inputs, seed, _repeated(keys))
    return Survey(images, texts, _repeated(urls))


def image_rows(params: Download, inputs: Path, seed: int) -> Iterator[Row | Rejection]:
    """Yield the rows of all sources of images: those without weight in the order of params, then the others.

    Sources with weights are merged in their proportion, so that each shard holds the mixture.
    """
    weighted: list[Iterator[Row | Rejection]] = []
    weights: list[float] = []
    for source in params.sources:
        if isinstance(source, TextTable | SceneTexts):
            continue
        rows = read_rows(source, inputs, seed)
        if isinstance(source, Weighted) and source.weight is not None:
            weighted.append(rows)
            weights.append(source.weight)
        else:
            yield from rows
    yield from mixed(weighted, weights)


def text_rows(params: Download, inputs: Path, seed: int) -> Iterator[Row | Rejection]:
    """Yield the rows of all sources of captions without images, in the order of params."""
    for source in params.sources:
        if isinstance(source, TextTable | SceneTexts):
            yield from read_rows(source, inputs, seed)


def each_url_once(
    rows: Iterator[Row | Rejection], repeated_urls: frozenset[int]
) -> Iterator[Row | Rejection]:
    """Reject every row but the first of those that have one url."""
    seen = set[int]()
    for row in rows:
        if isinstance(row, Row) and isinstance(row.image, ImageUrl):
            digest = digest_of(row.image.url)
            if digest in seen:
                yield Rejection(row.key, row.split, row.source, "duplicate_url", row.key, row.image.url)
                continue
            if digest in repeated_urls:
                seen.add(digest)
        yield row


def groups(rows: Iterable[Row | Rejection], size: int) -> Iterator[list[Row | Rejection]]:
    """Yield lists of `size` rows, the last one shorter; one list is in memory at a time."""
    iterator = iter(rows)
    while group := list(islice(iterator, size)):
        yield group


def digest_of(text: str) -> int:
    """Return eight bytes of a hash; among a billion texts two share one with a chance of 3 %."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _repeated(digests: array[int]) -> frozenset[int]:
    values, counts = np.unique(np.frombuffer(digests, dtype=np.uint64), return_counts=True)
    return frozenset(int(value) for value in values[counts > 1])


def _refuse_equal_keys(params: Download, inputs: Path, seed: int, repeated: frozenset[int]) -> None:
    if not repeated:
        return
    sources: dict[str, str] = {}
    for rows in (image_rows(params, inputs, seed), text_rows(params, inputs, seed)):
        for row in rows:
            if not isinstance(row, Row) or digest_of(row.key) not in repeated:
                continue
            if row.key in sources:
                raise DataFault(
                    f"key {row.key} occurs twice, in source {sources[row.key]} and in {row.source}; keys are "
                    "unique once lower-cased and other characters than a-z, 0-9, _ and - made _: mend the "
                    "table, or set key_column to null"
                )
            sources[row.key] = row.source
