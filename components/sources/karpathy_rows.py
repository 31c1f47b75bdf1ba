"""Rows of Karpathy's dataset files (COCO, Flickr8k, Flickr30k): an image with its sentences and its split."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from components.settings.sources import Karpathy
from components.sources.annotations import (
    AnnotatedImage,
    Tree,
    check_fields,
    names_of,
    read_annotations,
    row_of,
)
from components.sources.row import Rejection, Row
from components.sources.values import Rejected, rejection


def read_karpathy(source: Karpathy, inputs: Path) -> Iterator[Row | Rejection]:
    """Yield images in the order of the file; those of a split that params leave out are passed over.

    Args:
        source: From params.
        inputs: The folder its paths are relative to.

    Raises:
        ConfigurationError: the file or the folder of images is missing, or the file is of another kind.
        DataError: the file is damaged, or not the pinned one.
    """
    images = read_annotations(source, inputs, ("images",))["images"]
    check_fields(source, inputs, "sentence", [one for image in images for one in _sentences(image)])
    yield from islice(_rows(source, inputs, images), source.limit)


def _rows(source: Karpathy, inputs: Path, images: list[Tree]) -> Iterator[Row | Rejection]:
    names = names_of(
        source, inputs, (_name(one) for one in images if source.splits.get(str(one.get("split"))))
    )
    for number, image in enumerate(images):
        name = _name(image)
        key, where = Path(name).stem, f"{Path(source.path).name} image {number}"
        theirs = str(image.get("split"))
        if theirs not in source.splits:
            yield rejection(source.name, f"{source.name}_{key}", "", Rejected("unknown_split", theirs), where)
        elif (split := source.splits[theirs]) is not None:
            url = f"{source.url_prefix or ''}{quote(name, errors='replace')}" if image.get("filename") else ""
            yield row_of(source, names, AnnotatedImage(key, split, _sentences(image), name, url, where))


def _name(image: Tree) -> str:
    return "/".join(str(image[part]) for part in ("filepath", "filename") if image.get(part))


def _sentences(image: Tree) -> list[Tree]:
    found = image.get("sentences")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
