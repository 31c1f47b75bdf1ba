"""Rows of a folder of images with captions beside them: `a/1.jpg`, `a/1.txt`, `a/1.json`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from components.errors import ConfigurationError, DataError
from components.settings.sources import Sidecars
from components.sources.row import Image, Rejection, Row
from components.sources.sample_files import (
    IMAGE,
    IMAGE_KINDS,
    MAX_TEXT_BYTES,
    Sample,
    SampleReader,
    row_of,
    samples_by_stem,
)
from components.sources.values import Rejected, file_below, lies_below, whole_text


def read_sidecars(source: Sidecars, inputs: Path) -> Iterator[Row | Rejection]:
    """Yield the images of a folder, folder by folder in the order of names; those of one are in memory.

    A caption file without an image is a rejected row, and so are two images of one name, or two captions of
    one kind; files of other kinds, and hidden ones, are no rows.

    Args:
        source: From params.
        inputs: The folder its path is relative to.

    Raises:
        ConfigurationError: there is no such folder.
        DataError: it holds no image and no caption.
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
    for place, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(place).relative_to(folder)
        samples = samples_by_stem((name, below / name) for name in sorted(names) if not name.startswith("."))
        for stem in sorted(samples):
            path = (below / stem).as_posix()
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
    """Return the bytes of a caption file, which must lie in the folder as an image must."""
    name = sample.only(kind)
    if name is None:
        return None
    if not lies_below(root, name.as_posix()):
        raise Rejected("path_outside_folder")
    path = root / name
    if not path.is_file() or path.stat().st_size > MAX_TEXT_BYTES:
        raise Rejected("too_large" if path.is_file() else "caption_missing")
    return path.read_bytes()
