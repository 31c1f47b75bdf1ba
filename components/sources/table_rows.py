"""Rows of url lists, folders and text tables, which share how a table is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from components.faults import ConfigurationFault, DataFault
from components.settings.sources import Folder, Split, TextTable, UrlList
from components.sources.row import Image, ImageFile, ImageUrl, Rejection, Row
from components.sources.tables import Record, read_table
from components.storage.atomic import sha256_of
from components.storage.side_tables import Caption

MAX_KEY_CHARACTERS = 128
SPLITS = get_args(Split)
INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u00ad]")
HEAD_ROWS = 100  # looked at for swapped columns


class Rejected(Exception):
    """This input row gives no row; the reason is the text."""


def read_table_rows(source: UrlList | Folder | TextTable, inputs: Path) -> Iterator[Row | Rejection]:
    """Yield a row or a rejection for each record of the source's table.

    Args:
        source: From params.
        inputs: The folder its paths are relative to.

    Raises:
        ConfigurationFault: table, folder or column missing.
        DataFault: the table is empty, damaged, not the pinned one, or has captions and urls swapped.
    """
    path = inputs / source.path
    _check_pin(path, source.sha256)
    if isinstance(source, Folder) and not (inputs / source.images).is_dir():
        raise ConfigurationFault(
            f"{inputs / source.images} is no folder; sources.{source.name}.images names it"
        )
    swapped = 0
    for number, record in enumerate(read_table(path, _columns(source))):
        if source.limit is not None and number >= source.limit:
            return
        row = _row_or_rejection(source, inputs, record, number)
        if number < HEAD_ROWS:
            swapped += _caption_is_url(row)
            if swapped > HEAD_ROWS // 2:
                raise DataFault(
                    f"{path}: captions are urls in {swapped} of the first {number + 1} rows; "
                    f"the columns of sources.{source.name} look swapped"
                )
        yield row


def _columns(source: UrlList | Folder | TextTable) -> list[str]:
    names = [source.key_column, source.split_column, *(caption.column for caption in source.captions)]
    if isinstance(source, UrlList):
        names.append(source.url_column)
    if isinstance(source, Folder):
        names.append(source.image_column)
    return [name for name in names if name is not None]


def _row_or_rejection(
    source: UrlList | Folder | TextTable, inputs: Path, record: Record, number: int
) -> Row | Rejection:
    made_key = f"{source.name}_{number:09d}"
    key, split = made_key, str(source.split or "")
    try:
        if record.reason:
            raise Rejected(record.reason)
        key = normal_key(record.values[source.key_column]) if source.key_column else made_key
        split = source.split or _split(record.values[str(source.split_column)])
        image = _image(source, inputs, record.values)
        captions = _captions(source, record.values, key, split)
    except Rejected as reason:
        url = record.values.get(source.url_column) if isinstance(source, UrlList) else None
        return Rejection(key or made_key, split, source.name, str(reason), record.where, str(url or ""))
    return Row(key, split, source.name, captions, {}, image)


def normal_key(value: Any) -> str:  # noqa: ANN401 - whatever the table holds
    """Return a key as shards want it: lower-case, no dots, no slashes.

    Raises:
        Rejected: nothing is left of it, or it is too long for a file name.
    """
    key = re.sub(r"[^a-z0-9_-]+", "_", str("" if value is None else value).strip().lower())
    if not key or len(key) > MAX_KEY_CHARACTERS:
        raise Rejected("bad_key")
    return key


def _split(value: Any) -> str:  # noqa: ANN401
    if value not in SPLITS:
        raise Rejected("unknown_split")
    return str(value)


def _image(source: UrlList | Folder | TextTable, inputs: Path, values: dict[str, Any]) -> Image | None:
    if isinstance(source, UrlList):
        url = str(values[source.url_column] or "").strip()
        if not url:
            raise Rejected("no_url")
        return ImageUrl(url)
    if isinstance(source, Folder):
        folder = (inputs / source.images).resolve()
        name = str(values[source.image_column] or "")
        if not name:
            raise Rejected("no_image_name")
        path = folder / name
        if "\0" in name or not path.resolve().is_relative_to(folder):
            raise Rejected("path_outside_folder")
        return ImageFile(path, name)
    return None


def _captions(
    source: UrlList | Folder | TextTable, values: dict[str, Any], key: str, split: str
) -> list[Caption]:
    captions = []
    for column in source.captions:
        value = values[column.column]
        texts = value if isinstance(value, list) else [value]
        lines = [one_line(text) for text in texts]
        captions += [
            Caption(key, split, column.name, column.language, number, text, source.name)
            for number, text in enumerate(line for line in lines if line)
        ]
    if not captions:
        raise Rejected("empty_caption")
    return captions


def one_line(value: Any) -> str:  # noqa: ANN401 - whatever the table holds
    """Return a caption with each run of white space made one space; empty when nothing visible is left.

    Raises:
        Rejected: it holds a NUL.
    """
    text = " ".join(str("" if value is None else value).split())
    if "\0" in text:
        raise Rejected("nul_character")
    return text if INVISIBLE.sub("", text).strip() else ""


def _caption_is_url(row: Row | Rejection) -> bool:
    return isinstance(row, Row) and row.captions[0].text.startswith(("http://", "https://"))


def _check_pin(path: Path, pinned: str | None) -> None:
    if pinned is not None and path.is_file() and (found := sha256_of(path)) != pinned:
        raise DataFault(
            f"{path} has sha256 {found}, params pin {pinned}: fetch the pinned file or change the pin"
        )
