"""Read images whose captions are in `.txt` and `.json` files of the same name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from components.errors import ConfigurationError, DataError
from components.settings.sources import Members, Sidecars
from components.sources.drafts import RowDraft, row_or_rejection
from components.sources.row import Image, Rejection, Row
from components.sources.values import (
    Rejected,
    captions_of,
    file_below,
    lies_below,
    normal_key,
    split_of,
    whole_text,
)

IMAGE_KINDS = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
TEXT_KINDS = ("txt", "json")
IMAGE = "image"
MAX_TEXT_BYTES = 10_000_000
FileT = TypeVar("FileT")


@dataclass(frozen=True)
class Sample(Generic[FileT]):
    """The image and caption files that share one name.

    Attributes:
        stem: The name without its suffix.
        files: Files by kind: image, txt or json.
    """

    stem: str
    files: dict[str, list[FileT]] = field(default_factory=dict)

    def only(self, kind: str) -> FileT | None:
        """Return the only file of a kind, or None if there is none.

        Raises:
            Rejected: there are several files of that kind.
        """
        files = self.files.get(kind, [])
        if len(files) > 1:
            raise Rejected("several_images" if kind == IMAGE else "several_captions")
        return files[0] if files else None


@dataclass(frozen=True)
class SampleReader:
    """Functions that read the image and the captions of one sample; each may raise `Rejected`."""

    key: str  # the row's key is `<source>_<key>`
    where: str
    image: Callable[[], Image]
    text: Callable[[str], bytes | None]  # takes a kind, txt or json


def samples_by_stem(files: Iterable[tuple[str, FileT]]) -> dict[str, Sample[FileT]]:
    """Group image and caption files by their names up to the last dot; other files are left out.

    Suffixes may be in upper case. Both `1.txt` and `1.jpg.txt` are captions of `1.jpg`.

    Args:
        files: Pairs of name and file.
    """
    samples: dict[str, Sample[FileT]] = {}
    for name, file in files:
        stem, kind = _stem_and_kind(name)
        if kind in (IMAGE, *TEXT_KINDS):
            samples.setdefault(stem, Sample(stem)).files.setdefault(kind, []).append(file)
    return samples


def _stem_and_kind(name: str) -> tuple[str, str]:
    stem, _, suffix = name.rpartition(".")
    kind = suffix.lower()
    if kind in TEXT_KINDS and stem.rpartition(".")[2].lower() in IMAGE_KINDS:
        stem = stem.rpartition(".")[0] or stem
    return stem, IMAGE if kind in IMAGE_KINDS else kind


def row_of(source: Members, sample: SampleReader) -> Row | Rejection:
    """Return the row of a sample, or its rejection."""

    def make(draft: RowDraft) -> Row:
        image = sample.image()
        draft.key = normal_key(draft.key)
        values = _values(source, [caption.column for caption in source.captions], sample)
        if source.split_column:
            draft.split = split_of(_values(source, [source.split_column], sample).get(source.split_column))
        captions = captions_of(source.captions, values, draft.key, draft.split, source.name)
        return Row(draft.key, draft.split, source.name, captions, {}, image)

    key, split = f"{source.name}_{sample.key}", str(source.split or "")
    return row_or_rejection(RowDraft(source.name, key, split, sample.where), make)


def _values(source: Members, columns: Iterable[str], sample: SampleReader) -> dict[str, Any]:
    """Return values by column; only files that the columns name are decoded."""
    values: dict[str, Any] = {}
    fields: dict[str, Any] | None = None
    for column in columns:
        kind, _, field = column.partition(".")
        text = sample.text(kind)
        if text is None:
            continue
        if kind == "txt":
            caption = _decoded(text)
            values[column] = caption.split("\n") if source.txt_lines else caption
        else:
            fields = _fields(_decoded(text)) if fields is None else fields
            values[column] = fields.get(field)
    return values


def _decoded(text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Rejected("bad_utf8") from None


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise Rejected("bad_json") from None
    if not isinstance(fields, dict):
        raise Rejected("bad_json")
    return fields


def read_sidecars(source: Sidecars, inputs: Path) -> Iterator[Row | Rejection]:
    """Yield the images below a folder, folder by folder in name order; one folder's names are in memory.

    A caption file without an image is a rejected row. So are two images of one name, and two captions of one
    kind. Files of other kinds and hidden files are ignored.

    Args:
        source: From params.
        inputs: The folder its path is relative to.

    Raises:
        ConfigurationError: there is no such folder.
        DataError: the folder holds no image and no caption.
    """
    folder = inputs / source.path
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder; sources.{source.name}.path names it")
    is_empty = True
    for sample in islice(_samples(folder), source.limit):
        is_empty = False
        yield row_of(source, sample)
    if is_empty:
        raise DataError(f"{folder} holds no image and no caption; expected {', '.join(IMAGE_KINDS)} files")


def _samples(folder: Path) -> Iterator[SampleReader]:
    root = folder.resolve()
    for current, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        subfolder = Path(current).relative_to(folder)
        samples = samples_by_stem(
            (name, subfolder / name) for name in sorted(names) if not name.startswith(".")
        )
        for stem in sorted(samples):
            path = (subfolder / stem).as_posix()
            image, text = partial(_image, root, samples[stem]), partial(_text, root, samples[stem])
            yield SampleReader(path, path, image, text)


def _refuse(error: OSError) -> None:
    raise error


def _image(root: Path, sample: Sample[Path]) -> Image:
    path = sample.only(IMAGE)
    if path is None:
        raise Rejected("image_missing")
    return file_below(root, whole_text(path.as_posix()))


def _text(root: Path, sample: Sample[Path], kind: str) -> bytes | None:
    """Return the bytes of a caption file; like an image, it must be inside the folder."""
    name = sample.only(kind)
    if name is None:
        return None
    if not lies_below(root, name.as_posix()):
        raise Rejected("path_outside_folder")
    path = root / name
    if not path.is_file() or path.stat().st_size > MAX_TEXT_BYTES:
        raise Rejected("too_large" if path.is_file() else "caption_missing")
    return path.read_bytes()
