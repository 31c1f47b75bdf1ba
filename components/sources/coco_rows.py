"""Rows of COCO's captions files: an image with the captions of all annotations that name it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from components.errors import DataError
from components.settings.sources import Coco
from components.sources.annotations import (
    AnnotatedImage,
    Tree,
    check_fields,
    names_of,
    read_annotations,
    row_of,
)
from components.sources.row import Rejection, Row
from components.sources.values import rejection


def read_coco(source: Coco, inputs: Path) -> Iterator[Row | Rejection]:
    """Yield images in the order of the file, then a rejection for each annotation that names none of them.

    Args:
        source: From params.
        inputs: The folder its paths are relative to.

    Raises:
        ConfigurationError: the file or the folder of images is missing, or the file holds no captions.
        DataError: the file is damaged, not the pinned one, or two images have one id.
    """
    lists = read_annotations(source, inputs, ("images", "annotations"))
    check_fields(source, inputs, "annotation", lists["annotations"])
    captions: dict[str, list[Tree]] = {}
    for annotation in lists["annotations"]:
        captions.setdefault(_id(annotation.get("image_id")), []).append(annotation)
    yield from islice(_rows(source, inputs, lists["images"], captions), source.limit)


def _rows(
    source: Coco, inputs: Path, images: list[Tree], captions: dict[str, list[Tree]]
) -> Iterator[Row | Rejection]:
    path = inputs / source.path
    names = names_of(source, inputs, (_name(image) for image in images))
    seen = set[str]()
    for image in images:
        key = _id(image.get("id"))
        if key and key in seen:  # one without an id is a rejected row
            raise DataError(f"{path} has two images of id {key}; expected one: remove the other")
        seen.add(key)
        name, url = _name(image), str(image.get(source.url_field or "") or "")
        where = f"{path.name} image {key}"
        yield row_of(
            source, names, AnnotatedImage(key, source.split, captions.get(key, []), name, url, where)
        )
    for orphan in (one for key, found in captions.items() if key not in seen for one in found):
        key, where = _id(orphan.get("image_id")), f"{path.name} annotation {orphan.get('id')}"
        yield rejection(source.name, f"{source.name}_{key}", source.split, "no_such_image", where)


def _name(image: Tree) -> str:
    return str(image.get("file_name") or "")


def _id(value: object) -> str:
    return "" if value is None else str(value)
