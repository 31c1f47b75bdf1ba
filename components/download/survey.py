"""Count rows and find repeated keys and urls before anything is fetched."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from components.errors import ConfigurationError, DataError
from components.settings.download import Download
from components.settings.sources import SceneTexts, TextTable, Weighted
from components.sources.rows import ImageUrl, Rejection, Row, mixed, read_rows
from components.sources.source_requirements import Inputs
from components.storage.atomic import remove
from components.storage.duplicate_counter import DuplicateCounter, Repeated

ROWS_BETWEEN_LINES = 500_000
log = logging.getLogger("llm2clip")


@dataclass(frozen=True)
class Survey:
    """Counts of rows and repeated URLs, known before any image is fetched."""

    image_rows: int
    text_rows: int
    repeated_urls: Repeated


def survey(params: Download, inputs: Inputs, seed: int, work: Path) -> Survey:
    """Read every source once; a long list takes eight bytes per row on disk in `work` meanwhile.

    Raises:
        ConfigurationError: a table or column is missing, or no source gives images.
        DataError: a table is damaged, or two rows have one key.
    """
    remove(work)
    try:
        return _survey(params, inputs, seed, DuplicateCounter(work / "keys"), DuplicateCounter(work / "urls"))
    finally:
        remove(work)


def _survey(
    params: Download, inputs: Inputs, seed: int, keys: DuplicateCounter, urls: DuplicateCounter
) -> Survey:
    images = texts = 0
    for row in image_rows(params, inputs, seed):
        images += 1
        if images % ROWS_BETWEEN_LINES == 0:
            log.info("download: %d rows checked; fetching begins after the last one", images)
        if isinstance(row, Row):
            keys.add(row.key)
            if isinstance(row.image, ImageUrl):
                urls.add(row.image.url)
    for row in text_rows(params, inputs, seed):
        texts += 1
        if isinstance(row, Row):
            keys.add(row.key)
    if images == 0:
        raise ConfigurationError(
            "download.sources gives no image row; expected at least one; "
            "add a source of images, such as a url_list"
        )
    _refuse_equal_keys(params, inputs, seed, keys.repeated())
    return Survey(images, texts, urls.repeated())


def image_rows(params: Download, inputs: Inputs, seed: int) -> Iterator[Row | Rejection]:
    """Yield the rows of all image sources: first those without a weight, in params order, then the others.

    Sources with weights are mixed in proportion to them, so that each shard holds the mixture.
    """
    weighted: list[Iterator[Row | Rejection]] = []
    weights: list[float] = []
    for source in params.sources:
        if isinstance(source, TextTable | SceneTexts):
            continue
        rows = read_rows(source, inputs.of(source), seed)
        if isinstance(source, Weighted) and source.weight is not None:
            weighted.append(rows)
            weights.append(source.weight)
        else:
            yield from rows
    yield from mixed(weighted, weights)


def text_rows(params: Download, inputs: Inputs, seed: int) -> Iterator[Row | Rejection]:
    """Yield the rows of all sources of captions without images, in params order."""
    for source in params.sources:
        if isinstance(source, TextTable | SceneTexts):
            yield from read_rows(source, inputs.of(source), seed)


def each_url_once(rows: Iterator[Row | Rejection], repeated_urls: Repeated) -> Iterator[Row | Rejection]:
    """Reject all rows but the first that share a URL."""
    for row in rows:
        url = row.image.url if isinstance(row, Row) and isinstance(row.image, ImageUrl) else None
        if url is not None and repeated_urls.came_before(url):
            yield Rejection(row.key, row.split, row.source, "duplicate_url", row.key, url)
        else:
            yield row


def groups(rows: Iterable[Row | Rejection], size: int) -> Iterator[list[Row | Rejection]]:
    """Yield lists of `size` rows, the last one shorter; one list is in memory at a time."""
    iterator = iter(rows)
    while group := list(islice(iterator, size)):
        yield group


def _refuse_equal_keys(params: Download, inputs: Inputs, seed: int, repeated: Repeated) -> None:
    if not len(repeated):
        return
    sources: dict[str, str] = {}
    for row in chain(image_rows(params, inputs, seed), text_rows(params, inputs, seed)):
        if not isinstance(row, Row) or row.key not in repeated:
            continue
        if row.key in sources:
            raise DataError(
                f"key {row.key} occurs twice, in source {sources[row.key]} and in {row.source}; expected a "
                "unique key for each row; remove one of the two, set key_column to null (then rows are "
                "numbered), or give one of the files another name"
            )
        sources[row.key] = row.source
