"""Convert input values to keys, splits, image files and captions, or reject the row.

A caption value may be a list written as text: `DataFrame.to_csv`, img2dataset and others write a list as
Python or numpy prints it; other tools write JSON. Only a flat list of strings, `null`, `None` and `nan` is
read as a list. `[]` holds no caption, like an empty list in parquet. `[12]`, `['a', 3]` and `[laughs] a cat`
are each one caption.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from numbers import Number
from pathlib import Path
from typing import Any, get_args

from components.settings.sources import CaptionColumn, Split
from components.sources.row import ImageFile, Rejection
from components.storage.side_tables import Caption

MAX_KEY_CHARACTERS = 128
KEY_HASH_DIGITS = 16  # hash appended to a cleaned key: 64 bits
MAX_VALUE_CHARACTERS = 80  # longest value in a message
SPLITS = get_args(Split)
CAPTION_TYPES = (str, bytes, type(None), Number)  # bool is a Number in Python, but no caption
INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u00ad]")
NONCHARACTER = re.compile("[\ufdd0-\ufdef\ufffe\uffff]")  # a template marks a text with one
SURROGATE = re.compile("[\ud800-\udfff]")  # JSON and file names can hold a lone surrogate, UTF-8 cannot
CACHED = re.compile("/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")  # below cache.dir, in the layout of DVC 3
KEY = re.compile(rf"[a-z0-9_-]{{1,{MAX_KEY_CHARACTERS}}}")
NOT_OF_KEYS = re.compile(r"[^a-z0-9_-]+")
MAX_CHARACTERS = 1_000_000
ESCAPE = r"""\\(?:[\\'"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"""  # as `repr` writes them
STRING = rf"""u?(?:'(?:[^'\\\n]|{ESCAPE})*+'|"(?:[^"\\\n]|{ESCAPE})*+")"""
ITEM = rf"(?:{STRING}|np\.str_\({STRING}\)|None|nan)"
# linear time: possessive quantifiers do not backtrack
PYTHON_LIST = re.compile(rf"\[\s*+(?:{ITEM}(?:\s*+,\s*+{ITEM})*+(?:\s*+,)?\s*+)?\]")
NUMPY_LIST = re.compile(rf"\[\s*+{ITEM}(?:\s++{ITEM})++\s*+\]")  # Python would join such strings into one
STRINGS = re.compile(STRING)


class Rejected(Exception):
    """An input row is rejected: the text is the reason, `value` the input value for messages."""

    def __init__(self, reason: str, value: str = "") -> None:
        super().__init__(reason)
        self.value = value


def normal_key(value: Any) -> str:  # noqa: ANN401 - whatever the input holds
    """Return a value as a shard key: characters a-z, 0-9, _ and -, at most 128 of them.

    A text of that form is its own key. Any other text is cleaned, and a hash of the original text is
    appended, so that `IMG (1)`, `IMG [1]` and `img_1_` get different keys. The key depends only on the text.

    Raises:
        Rejected: the value is no text, or is blank.
    """
    text = whole_text(value)
    if KEY.fullmatch(text):
        return text
    if not text.strip():
        raise Rejected("bad_key", str(value))
    suffix = f"-{sha256(text.encode()).hexdigest()[:KEY_HASH_DIGITS]}"
    cleaned = NOT_OF_KEYS.sub("_", text.strip().lower())
    return cleaned[: MAX_KEY_CHARACTERS - len(suffix)] + suffix


def rejection(
    source: str, key: str, split: str, reason: Rejected | str, where: str, url: str = ""
) -> Rejection:
    """Return a row's rejection, with its key cleaned and characters that UTF-8 cannot encode replaced."""
    key = NOT_OF_KEYS.sub("_", key.strip().lower())[:MAX_KEY_CHARACTERS]
    value = reason.value[:MAX_VALUE_CHARACTERS] if isinstance(reason, Rejected) else ""
    where, url, value = (SURROGATE.sub("\ufffd", text) for text in (where, url, value))
    return Rejection(key, split, source, str(reason), where, url, value)


def split_of(value: Any) -> str:  # noqa: ANN401
    """Return a value as the name of a split.

    Raises:
        Rejected: the value is no split.
    """
    split = whole_text(value)
    if split not in SPLITS:
        raise Rejected("unknown_split", split)
    return split


def whole_text(value: Any) -> str:  # noqa: ANN401
    """Return a value as text that UTF-8 can encode; empty for None and for NaN, which pandas writes for None.

    Raises:
        Rejected: the value has a lone surrogate, is not UTF-8, or is a list or an object.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise Rejected("bad_utf8") from None
    if isinstance(value, list | dict):
        raise Rejected("not_text")
    text = str(value)
    if not text.isascii() and SURROGATE.search(text):
        raise Rejected("lone_surrogate")
    return text


def one_line(value: Any) -> str:  # noqa: ANN401
    """Return a caption with each run of white space replaced by one space; empty if nothing visible is left.

    A number is a caption, like `7` in a csv. A date, a boolean or a record is not.

    Raises:
        Rejected: the value is no text, or has a NUL, a lone surrogate or a Unicode noncharacter.
    """
    if isinstance(value, bool) or not isinstance(value, CAPTION_TYPES):
        raise Rejected("not_text")
    text = " ".join(whole_text(value).split())
    if "\0" in text:
        raise Rejected("nul_character")
    if not text.isascii() and NONCHARACTER.search(text):
        raise Rejected("noncharacter")
    return text if text.isascii() or INVISIBLE.sub("", text).strip() else ""


def captions_of(
    columns: Sequence[CaptionColumn], values: Mapping[str, Any], key: str, split: str, writer: str
) -> list[Caption]:
    """Return the captions of a row, column by column; each value is one caption or a list of captions.

    A text that is written as a list of strings counts as a list, for every kind of source.

    Args:
        columns: The caption columns to take.
        values: Values by column; a missing column has no caption.
        key: The row's key.
        split: The row's split.
        writer: The source's name.

    Raises:
        Rejected: no column holds a visible character, or a value holds something that a caption must not.
    """
    captions = []
    for column in columns:
        value = values.get(column.column)
        items = value if isinstance(value, list) else [value]
        lines = [one_line(text) for item in items for text in _texts_of(item)]
        captions += [
            Caption(key, split, column.name, column.language, number, text, writer)
            for number, text in enumerate(line for line in lines if line)
        ]
    if not captions:
        raise Rejected("empty_caption")
    return captions


def _texts_of(item: Any) -> list[Any]:  # noqa: ANN401
    """Return the strings of a list written as text, or the item itself as the only one."""
    text = whole_text(item) if isinstance(item, bytes) else item
    strings = strings_listed_in(text) if isinstance(text, str) else None
    return [item] if strings is None else strings


def file_below(folder: Path, name: str) -> ImageFile:
    """Return an image file in a folder.

    Args:
        folder: The folder, with its links resolved.
        name: The image's path below the folder.

    Raises:
        Rejected: the name is empty, leads out of the folder, or the file is not readable.
        OSError: no file can have such a name.
    """
    if not name:
        raise Rejected("no_image_name")
    if not lies_below(folder, name):
        raise Rejected("path_outside_folder", name)
    with suppress(FileNotFoundError, NotADirectoryError):  # reported when the image is read: `image_missing`
        if (folder / name).stat() and not os.access(folder / name, os.R_OK):
            raise Rejected("unreadable", name)
    return ImageFile(folder / name, name)


def lies_below(folder: Path, name: str) -> bool:
    """Return whether a file is inside a folder, or is a link in it to an object of a DVC cache.

    `dvc add` creates such links if `cache.type` is symlink. A cache may be anywhere, so it is recognised by
    the names of its objects, which are hashes. No other file that a dataset's author could want to reach has
    such a name.

    Args:
        folder: The folder, with its links resolved.
        name: The file's path below the folder.
    """
    if "\0" in name:
        return False
    path = folder / name
    target = Path(os.path.realpath(path))  # `resolve` raises if links form a loop
    if target.is_relative_to(folder):
        return True
    is_added = path.is_symlink() and path.parent.resolve().is_relative_to(folder)
    return is_added and bool(CACHED.search(target.as_posix()))


def strings_listed_in(text: str) -> list[str] | None:
    """Return the strings of a list written as text, or None for any other text.

    Args:
        text: E.g. `["a cat", "a dog"]`, `['a cat', 'a dog']`, or numpy's `['a cat' 'a dog']`.
    """
    text = text.strip()
    if not text.startswith("[") or not text.endswith("]") or len(text) > MAX_CHARACTERS:
        return None
    strings = _strings_in_json(text)
    if strings is None and (PYTHON_LIST.fullmatch(text) or NUMPY_LIST.fullmatch(text)):
        strings = [ast.literal_eval(string) for string in STRINGS.findall(text)]
    return strings


def _strings_in_json(text: str) -> list[str] | None:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return None
    are_empty = [item is None or item != item for item in items]
    strings = [item for item, is_empty in zip(items, are_empty, strict=True) if not is_empty]
    return strings if all(isinstance(item, str) for item in strings) else None
