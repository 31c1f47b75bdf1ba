"""Convert values to keys, splits, names and captions, or reject the row.

Lists of captions written as text: `DataFrame.to_csv`, img2dataset and others write a list as Python or numpy
prints it; other tools write JSON. Only a flat list of strings, `null`, `None` and `nan` is read as one; `[]`
holds no caption, as an empty list of parquet holds none. `[12]`, `['a', 3]` and `[laughs] a cat` are captions
as they stand.
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
KEY_HASH_DIGITS = 16  # of a cleaned text: 64 bits
KEY_HASH = re.compile(rf"-[0-9a-f]{{{KEY_HASH_DIGITS}}}$")
MAX_VALUE_CHARACTERS = 80  # of a value in a message
SPLITS = get_args(Split)
CAPTION_TYPES = (str, bytes, type(None), Number)  # a truth value is a number to Python, and no caption
INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u00ad]")
NONCHARACTER = re.compile("[\ufdd0-\ufdef\ufffe\uffff]")  # a template marks a text by one
SURROGATE = re.compile("[\ud800-\udfff]")  # JSON and file names can hold half a character, UTF-8 cannot
CACHED = re.compile("/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")  # below cache.dir, as DVC 3 lays it out
KEY = re.compile(rf"[a-z0-9_-]{{1,{MAX_KEY_CHARACTERS}}}")
NOT_OF_KEYS = re.compile(r"[^a-z0-9_-]+")


class Rejected(Exception):
    """This input row gives no row; the reason is the text, `value` what the input holds, for messages."""

    def __init__(self, reason: str, value: str = "") -> None:
        super().__init__(reason)
        self.value = value


def normal_key(value: Any) -> str:  # noqa: ANN401 - whatever the input holds
    """Return a key as shards want it: of a-z, 0-9, _ and -, at most 128 characters.

    A text of that form is its own key. Any other one is cleaned, and a hash of the text as it stood is put
    behind it, so that `IMG (1)`, `IMG [1]` and `img_1_` have a key each. The key depends on the text alone.

    Raises:
        Rejected: it is no text, or nothing is left of it.
    """
    text = whole_text(value)
    if KEY.fullmatch(text):
        return text
    if not text.strip():
        raise Rejected("bad_key", str(value))
    suffix = f"-{sha256(text.encode()).hexdigest()[:KEY_HASH_DIGITS]}"
    cleaned = NOT_OF_KEYS.sub("_", text.strip().lower())
    return cleaned[: MAX_KEY_CHARACTERS - len(suffix)] + suffix


def without_hash(key: str) -> str:
    """Return a key as `normal_key` once made it, when it put no hash behind a cleaned text."""
    return KEY_HASH.sub("", key)


def rejection(
    source: str, key: str, split: str, reason: Rejected | str, where: str, url: str = ""
) -> Rejection:
    """Return a rejection of a row; its key is cut to the form of keys, what cannot be written is replaced."""
    key = NOT_OF_KEYS.sub("_", key.strip().lower())[:MAX_KEY_CHARACTERS]
    value = reason.value[:MAX_VALUE_CHARACTERS] if isinstance(reason, Rejected) else ""
    where, url, value = (SURROGATE.sub("\ufffd", text) for text in (where, url, value))
    return Rejection(key, split, source, str(reason), where, url, value)


def split_of(value: Any) -> str:  # noqa: ANN401
    """Return a split that is one.

    Raises:
        Rejected: it is none.
    """
    split = whole_text(value)
    if split not in SPLITS:
        raise Rejected("unknown_split", split)
    return split


def whole_text(value: Any) -> str:  # noqa: ANN401
    """Return a value as text that UTF-8 can write; empty for none, and for NaN, which pandas writes for none.

    Raises:
        Rejected: it holds half a character, or is a list or an object.
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
    """Return a caption with each run of white space made one space; empty when nothing visible is left.

    A number is a caption, as `7` of a csv is; a date, a truth value or a record is none.

    Raises:
        Rejected: it is no text, or holds a NUL, half a character or what Unicode keeps for programs.
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

    A text that is written as a list of strings is one, whatever kind of source it is from.

    Args:
        columns: Those to take.
        values: By column; one that is missing holds no caption.
        key: Of the row.
        split: Of the row.
        writer: Who says so: the source's name.

    Raises:
        Rejected: no column holds a visible character, or one holds what no caption can.
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
    """Return what a value of a caption column holds: the strings of a list written as text, or itself."""
    text = whole_text(item) if isinstance(item, bytes) else item
    listed = strings_listed_in(text) if isinstance(text, str) else None
    return [item] if listed is None else listed


def file_below(folder: Path, name: str) -> ImageFile:
    """Return an image that lies in a folder.

    Args:
        folder: With its links resolved.
        name: Of the image, below it.

    Raises:
        Rejected: there is no name, it leads out of the folder, or the file may not be read.
        OSError: no file can have such a name.
    """
    if not name:
        raise Rejected("no_image_name")
    if not lies_below(folder, name):
        raise Rejected("path_outside_folder", name)
    with suppress(FileNotFoundError, NotADirectoryError):  # said when it is taken: `image_missing`
        if (folder / name).stat() and not os.access(folder / name, os.R_OK):
            raise Rejected("unreadable", name)
    return ImageFile(folder / name, name)


def lies_below(folder: Path, name: str) -> bool:
    """Say whether a file is in a folder, or is a link in it to an object of a DVC cache.

    `dvc add` leaves such links where `cache.type` is symlink. A cache may lie anywhere, so it is known by how
    it names its objects, by hash; no file that a data set's author could want to reach is called so.

    Args:
        folder: With its links resolved.
        name: Of the file, below it.
    """
    if "\0" in name:
        return False
    path = folder / name
    target = Path(os.path.realpath(path))  # `resolve` raises where links go in a circle
    if target.is_relative_to(folder):
        return True
    is_added = path.is_symlink() and path.parent.resolve().is_relative_to(folder)
    return is_added and bool(CACHED.search(target.as_posix()))


MAX_CHARACTERS = 1_000_000
ESCAPE = r"""\\(?:[\\'"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"""  # as `repr` writes them
STRING = rf"""u?(?:'(?:[^'\\\n]|{ESCAPE})*+'|"(?:[^"\\\n]|{ESCAPE})*+")"""
ITEM = rf"(?:{STRING}|np\.str_\({STRING}\)|None|nan)"
PYTHON_LIST = re.compile(rf"\[\s*+(?:{ITEM}(?:\s*+,\s*+{ITEM})*+(?:\s*+,)?\s*+)?\]")  # linear: no way back
NUMPY_LIST = re.compile(rf"\[\s*+{ITEM}(?:\s++{ITEM})++\s*+\]")  # Python would join such strings to one
STRINGS = re.compile(STRING)


def strings_listed_in(text: str) -> list[str] | None:
    """Return the strings of a list that is written as text, or None for any other text.

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
    is_nothing = [item is None or item != item for item in items]
    strings = [item for item, nothing in zip(items, is_nothing, strict=True) if not nothing]
    return strings if all(isinstance(item, str) for item in strings) else None
