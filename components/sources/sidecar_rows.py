"""Rows of a folder of images with captions beside them: `a/1.jpg`, `a/1.txt`, `a/1.json`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from components.faults import ConfigurationFault, DataFault
from components.settings.sources import Sidecars
from components.sources.members import IMAGE_KINDS, MAX_TEXT_BYTES, TEXT_KINDS, Found, row_of
from components.sources.row import Image, Rejection, Row
from components.sources.texts import Rejected, file_below, lies_below, whole_text


def read_sidecars(source: Sidecars, inputs: Path) -> Iterator[Row | Rejection]:
    """Yield the images of a folder, folder by folder in the order of names; those of one are in memory.

    A caption file without an image is a rejected row; files of other kinds, and hidden ones, are no rows.

    Args:
        source: From params.
        inputs: The folder its path is relative to.

    Raises:
        ConfigurationFault: there is no such folder, or a link to a folder in it.
        DataFault: it holds no image, or two images of one name.
    """
    folder = inputs / source.path
    if not folder.is_dir():
        raise ConfigurationFault(f"{folder} is no folder; sources.{source.name}.path names it")
    found = False
    for member in islice(_members(folder), source.limit):
        found = True
        yield row_of(source, member)
    if not found:
        raise DataFault(f"{folder} holds no image and no caption; expected {', '.join(IMAGE_KINDS)} files")


def _members(folder: Path) -> Iterator[Found]:
    root = folder.resolve()
    for place, folders, names in os.walk(folder, onerror=_refuse):
        if links := [name for name in folders if Path(place, name).is_symlink()]:
            raise ConfigurationFault(
                f"{place}/{links[0]} is a link to a folder, which DVC does not see; "
                "expected the folder itself: put it in its place"
            )
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(place).relative_to(folder)
        for stem, kinds in sorted(_by_stem(names).items()):
            yield _member(root, below / stem, kinds)


def _refuse(error: OSError) -> None:
    raise error


def _by_stem(names: list[str]) -> dict[str, dict[str, list[str]]]:
    """Group the names of a folder: by stem, then by kind, all images being of one."""
    groups: dict[str, dict[str, list[str]]] = {}
    for name in sorted(names):
        stem, _, suffix = name.rpartition(".")
        kind = "image" if suffix.lower() in IMAGE_KINDS else suffix
        if stem and not name.startswith(".") and (kind == "image" or kind in TEXT_KINDS):
            groups.setdefault(stem, {}).setdefault(kind, []).append(name)
    return groups


def _member(root: Path, path: Path, kinds: dict[str, list[str]]) -> Found:
    images = kinds.get("image", [])
    if len(images) > 1:
        raise DataFault(
            f"{root / path.parent} holds {' and '.join(images)}; "
            "expected one image of a name: rename the others"
        )
    texts: dict[str, bytes | Rejected] = {}
    for kind in TEXT_KINDS:
        for name in kinds.get(kind, []):
            texts[kind] = _text(root, path.with_name(name))
    image: Image | Rejected
    try:
        if not images:
            raise Rejected("image_missing")
        image = file_below(root, whole_text(path.with_name(images[0]).as_posix()))
    except Rejected as reason:
        image = reason
    return Found(path.as_posix(), path.as_posix(), image, texts)


def _text(root: Path, name: Path) -> bytes | Rejected:
    """Return the bytes of a caption file, which must lie in the folder as an image must."""
    path = root / name
    if not lies_below(root, name.as_posix()):
        return Rejected("path_outside_folder")
    if not path.is_file() or path.stat().st_size > MAX_TEXT_BYTES:
        return Rejected("too_large" if path.is_file() else "caption_missing")
    return path.read_bytes()
