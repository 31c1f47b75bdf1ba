"""Read rows from tables: url lists, folders with a captions table, and text tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any

from components.errors import ConfigurationError, DataError
from components.settings.sources import Folder, TextTable, UrlList
from components.sources.drafts import RowDraft, row_or_rejection
from components.sources.files import ImageNames, check_pin, image_names, named_files
from components.sources.records import Record
from components.sources.row import Image, ImageUrl, Rejection, Row
from components.sources.source_requirements import images_folder
from components.sources.tables import KINDS, read_tables
from components.sources.values import (
    Rejected,
    captions_of,
    normal_key,
    split_of,
    whole_text,
)
from components.storage.side_tables import Caption

HEAD_ROWS = 100  # checked for swapped columns
KEY_DIGITS = 20  # 80 bits: among a billion rows, two share a key with a probability of one in a million


def read_table_rows(source: UrlList | Folder | TextTable, inputs: Path) -> Iterator[Row | Rejection]:
    """Yield a row or a rejection for each record of the source's tables.

    Args:
        source: From params.
        inputs: The folder its paths are relative to.

    Raises:
        ConfigurationError: a table, folder or column is missing, or the header line does not match params.
        DataError: a table is empty, damaged, not the pinned one, or has captions and urls swapped.
    """
    files = named_files(inputs, source.path, KINDS)
    check_pin(inputs, files.paths, source.sha256)
    records = read_tables(files.paths, _columns(source), source.columns)
    head = list(islice(records, HEAD_ROWS))
    names = _image_names(source, inputs, head)
    are_urls: list[bool] = []
    for number, record in enumerate(islice(chain(head, records), source.limit)):
        row = _row_or_rejection(source, names, record, number)
        if number < HEAD_ROWS:
            are_urls.append(_caption_is_url(row))
            if sum(are_urls) > HEAD_ROWS // 2:
                break
        yield row
    if 2 * sum(are_urls) > len(are_urls):
        raise DataError(
            f"{files.paths[0]}: captions are urls in {sum(are_urls)} of the first {len(are_urls)} "
            f"rows; the columns of sources.{source.name} look swapped"
        )


def _columns(source: UrlList | Folder | TextTable) -> list[str]:
    names = [source.key_column, source.split_column, *(caption.column for caption in source.captions)]
    if isinstance(source, UrlList):
        names += [source.url_column, source.sha256_column]
    if isinstance(source, Folder):
        names.append(source.image_column)
    return [name for name in names if name is not None]


def _names_in(source: Folder, records: Iterable[Record]) -> Iterator[str]:
    """Yield the image names of records; names that are not text are skipped."""
    for record in records:
        with suppress(Rejected):
            yield whole_text(record.values.get(source.image_column))


def _image_names(
    source: UrlList | Folder | TextTable, inputs: Path, first: list[Record]
) -> ImageNames | None:
    """Return how image names map to paths, decided by the first records; None for other sources."""
    images = images_folder(source)
    if images is None or not isinstance(source, Folder):
        return None
    if not (inputs / images).is_dir():
        raise ConfigurationError(f"{inputs / images} is no folder; sources.{source.name}.images names it")
    return image_names(inputs, images, _names_in(source, first))


def _row_or_rejection(
    source: UrlList | Folder | TextTable, names: ImageNames | None, record: Record, number: int
) -> Row | Rejection:
    key, split, url = f"{source.name}_{number:09d}", str(source.split or ""), ""
    if isinstance(source, UrlList):
        url = str(record.values.get(source.url_column) or "")

    def make(draft: RowDraft) -> Row:
        if record.reason:
            raise Rejected(record.reason)
        values = record.values  # a JSON line may lack any column
        if source.key_column:
            draft.key = normal_key(whole_text(values.get(source.key_column)).strip())
        draft.split = source.split or split_of(values.get(str(source.split_column)))
        image = _image(source, names, values)
        captions = captions_of(source.captions, values, draft.key, draft.split, source.name)
        if not source.key_column:
            draft.key = _made_key(source.name, image, captions)
            captions = [replace(caption, key=draft.key) for caption in captions]
        return Row(draft.key, draft.split, source.name, captions, {}, image)

    return row_or_rejection(RowDraft(source.name, key, split, record.where, url), make)


def _made_key(source: str, image: Image | None, captions: list[Caption]) -> str:
    """Return a key that is the same wherever the row stands: a hash of its image's name, or of its texts."""
    if image is None:
        name = json.dumps([[caption.column, caption.text] for caption in captions])
    else:
        name = image.url if isinstance(image, ImageUrl) else str(getattr(image, "name", ""))
    return normal_key(f"{source}_{sha256(name.encode()).hexdigest()[:KEY_DIGITS]}")


def _image(
    source: UrlList | Folder | TextTable, names: ImageNames | None, values: dict[str, Any]
) -> Image | None:
    if isinstance(source, UrlList):
        url = whole_text(values.get(source.url_column)).strip()
        if not url:
            raise Rejected("no_url")
        return ImageUrl(url, _pin(values.get(source.sha256_column)) if source.sha256_column else None)
    if names is not None and isinstance(source, Folder):
        return names.image(whole_text(values.get(source.image_column)))
    return None


def _pin(value: Any) -> str | None:  # noqa: ANN401 - whatever the table holds
    pin = whole_text(value).strip().lower()
    if pin and not re.fullmatch(r"[0-9a-f]{64}", pin):
        raise Rejected("bad_sha256", pin)
    return pin or None


def _caption_is_url(row: Row | Rejection) -> bool:
    return isinstance(row, Row) and row.captions[0].text.startswith(("http://", "https://"))
