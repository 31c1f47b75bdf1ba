"""Read COCO and Karpathy annotation files: JSON with a list of images.

The file is read whole, unlike every other input, because captions may be listed apart from their images and
in any order. COCO's captions_train2017.json (97 MB, 118,287 images) took 390 MB; larger sets come as tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from components.errors import ConfigurationError, DataError
from components.settings.sources import Coco, Karpathy
from components.sources.drafts import RowDraft, row_or_rejection
from components.sources.files import ImageNames, check_pin, image_names, named_files
from components.sources.row import Image, ImageUrl, Rejection, Row
from components.sources.source_requirements import images_folder
from components.sources.values import Rejected, captions_of, normal_key, rejection, whole_text
from components.storage.file_kinds import HEAD_BYTES, file_kind

Tree = dict[str, Any]


@dataclass(frozen=True)
class AnnotatedImage:
    """One image of an annotation file."""

    key: str  # unique in the file
    split: str
    captions: list[Tree]  # objects whose fields are captions
    name: str  # path below the folder of images, if there is one
    url: str  # empty if the image has none
    where: str  # position in the file, for messages


def read_annotations(source: Coco | Karpathy, inputs: Path, lists: tuple[str, ...]) -> dict[str, list[Tree]]:
    """Return the named lists of objects in an annotation file; an item that is no object becomes `{}`.

    Args:
        source: From params.
        inputs: The folder its paths are relative to.
        lists: Names of the lists to return.

    Raises:
        ConfigurationError: the file or the folder of images is missing, or the JSON has another format.
        DataError: the file is damaged, empty, or not the pinned one.
    """
    files = named_files(inputs, source.path, (".json",))
    if len(files.paths) != 1:
        raise ConfigurationError(f"{inputs / source.path} names several files; expected one: name one")
    check_pin(inputs, files.paths, source.sha256)
    images = images_folder(source)
    if images is not None and not (inputs / images).is_dir():
        raise ConfigurationError(f"{inputs / images} is no folder; sources.{source.name}.images names it")
    path = files.paths[0]
    tree = _parsed(path)
    for name in lists:
        items = tree.get(name) if isinstance(tree, dict) else None
        if not isinstance(items, list) or (items and not any(isinstance(item, dict) for item in items)):
            present = f"; it has {', '.join(list(tree)[:10])}" if isinstance(tree, dict) else ""
            raise ConfigurationError(
                f"{path} has no list {name} of objects{present}: expected {source.kind}'s format"
            )
        if not items:
            raise DataError(f"{path} has no {name}; expected at least one")
    return {name: [item if isinstance(item, dict) else {} for item in tree[name]] for name in lists}


def check_fields(source: Coco | Karpathy, inputs: Path, what: str, objects: list[Tree]) -> None:
    """Check that each caption column is a field of at least one of the objects that hold captions.

    Raises:
        ConfigurationError: no object has a field of that name.
    """
    for column in source.captions:
        if not any(column.column in item for item in objects):
            fields = ", ".join(sorted({field for item in objects[:100] for field in item})[:10]) or "none"
            raise ConfigurationError(
                f"{inputs / source.path}: no {what} has a field {column.column}; their fields are {fields}: "
                "name one of them in params, or the file that holds captions"
            )


def names_of(source: Coco | Karpathy, inputs: Path, names: Iterable[str]) -> ImageNames | None:
    """Return how image names map to paths, decided by the first names; None if images are fetched."""
    images = images_folder(source)
    return None if images is None else image_names(inputs, images, names)


def row_of(source: Coco | Karpathy, names: ImageNames | None, image: AnnotatedImage) -> Row | Rejection:
    """Return the row of an image, or its rejection; `names` is None if images are fetched."""

    def make(draft: RowDraft) -> Row:
        draft.key = normal_key(draft.key)
        location = _image_location(names, image)
        if not image.key:
            raise Rejected("bad_key")
        captions = captions_of(source.captions, _values(source, image), draft.key, image.split, source.name)
        return Row(draft.key, image.split, source.name, captions, {}, location)

    key = f"{source.name}_{image.key}"
    return row_or_rejection(RowDraft(source.name, key, image.split, image.where, image.url), make)


def _image_location(names: ImageNames | None, image: AnnotatedImage) -> Image:
    name = whole_text(image.name)
    if names is not None:
        return names.image(name)
    if not image.url:
        raise Rejected("no_url")
    return ImageUrl(whole_text(image.url))


def _values(source: Coco | Karpathy, image: AnnotatedImage) -> Tree:
    values: Tree = {}
    for column in source.captions:
        items = [caption.get(column.column) for caption in image.captions]
        values[column.column] = [
            text for item in items for text in (item if isinstance(item, list) else [item])
        ]
    return values


def _parsed(path: Path) -> Any:  # noqa: ANN401 - whatever JSON holds
    data = path.read_bytes()
    if kind := file_kind(data[:HEAD_BYTES]):
        raise DataError(f"{path} is {kind.name} inside; expected JSON; {kind.advice}")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no whole JSON in UTF-8 ({error}); fetch it again") from None


def read_coco(source: Coco, inputs: Path) -> Iterator[Row | Rejection]:
    """Yield the images in file order, then a rejection for each annotation whose image is not in the file.

    Args:
        source: From params.
        inputs: The folder its paths are relative to.

    Raises:
        ConfigurationError: the file or the folder of images is missing, or the file holds no captions.
        DataError: the file is damaged, not the pinned one, or two images have the same id.
    """
    lists = read_annotations(source, inputs, ("images", "annotations"))
    check_fields(source, inputs, "annotation", lists["annotations"])
    captions: dict[str, list[Tree]] = {}
    for annotation in lists["annotations"]:
        captions.setdefault(_id(annotation.get("image_id")), []).append(annotation)
    yield from islice(_coco_rows(source, inputs, lists["images"], captions), source.limit)


def _coco_rows(
    source: Coco, inputs: Path, images: list[Tree], captions: dict[str, list[Tree]]
) -> Iterator[Row | Rejection]:
    path = inputs / source.path
    names = names_of(source, inputs, (_coco_name(image) for image in images))
    seen = set[str]()
    for image in images:
        key = _id(image.get("id"))
        if key and key in seen:  # an image without an id is a rejected row
            raise DataError(f"{path} has two images of id {key}; expected one: remove the other")
        seen.add(key)
        name, url = _coco_name(image), str(image.get(source.url_field or "") or "")
        where = f"{path.name} image {key}"
        yield row_of(
            source, names, AnnotatedImage(key, source.split, captions.get(key, []), name, url, where)
        )
    for orphan in (item for key, items in captions.items() if key not in seen for item in items):
        key, where = _id(orphan.get("image_id")), f"{path.name} annotation {orphan.get('id')}"
        yield rejection(source.name, f"{source.name}_{key}", source.split, "no_such_image", where)


def _coco_name(image: Tree) -> str:
    return str(image.get("file_name") or "")


def _id(value: object) -> str:
    return "" if value is None else str(value)


def read_karpathy(source: Karpathy, inputs: Path) -> Iterator[Row | Rejection]:
    """Yield the images in file order, without the splits that params leave out.

    Args:
        source: From params.
        inputs: The folder its paths are relative to.

    Raises:
        ConfigurationError: the file or the folder of images is missing, or the file has another format.
        DataError: the file is damaged, or not the pinned one.
    """
    images = read_annotations(source, inputs, ("images",))["images"]
    check_fields(source, inputs, "sentence", [sentence for image in images for sentence in _sentences(image)])
    yield from islice(_karpathy_rows(source, inputs, images), source.limit)


def _karpathy_rows(source: Karpathy, inputs: Path, images: list[Tree]) -> Iterator[Row | Rejection]:
    names = names_of(
        source,
        inputs,
        (_karpathy_name(image) for image in images if source.splits.get(str(image.get("split")))),
    )
    for number, image in enumerate(images):
        name = _karpathy_name(image)
        key, where = Path(name).stem, f"{Path(source.path).name} image {number}"
        label = str(image.get("split"))
        if label not in source.splits:
            yield rejection(source.name, f"{source.name}_{key}", "", Rejected("unknown_split", label), where)
        elif (split := source.splits[label]) is not None:
            url = f"{source.url_prefix or ''}{quote(name, errors='replace')}" if image.get("filename") else ""
            yield row_of(source, names, AnnotatedImage(key, split, _sentences(image), name, url, where))


def _karpathy_name(image: Tree) -> str:
    return "/".join(str(image[part]) for part in ("filepath", "filename") if image.get(part))


def _sentences(image: Tree) -> list[Tree]:
    items = image.get("sentences")
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
