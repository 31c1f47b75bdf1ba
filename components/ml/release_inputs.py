"""What users give a release to embed: one picture or text, or many of them, of every sensible type."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Set
from io import IOBase
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from components.ml.vision.pictures import Picture, rgb_of
from components.ml.vision.pixels import square_of

PICTURES = "a path, the bytes of a file, a PIL image or a numpy array, or a list of such"
TEXTS = "a str or a list of str"
NO_LISTS = (Mapping, Set, IOBase, bytes, bytearray, memoryview)  # they can be iterated, but not as meant


def squares(pictures: Picture | Iterable[Picture], size: int, count: int) -> Iterator[Tensor]:
    """Yield pictures of any size as batches of at most `count` squares, uint8 (B, 3, size, size).

    Raises:
        FileNotFoundError: a file is missing.
        TypeError: something is no picture; see `rgb_of`.
        ValueError: a picture cannot be decoded.
    """
    given = iter([_square(pictures, size)] if _is_picture(pictures) else _squares(pictures, size))
    while batch := list(islice(given, count)):
        yield torch.stack(batch)


def texts_of(texts: str | Iterable[str]) -> list[str]:
    """Return one text or many as a list.

    Raises:
        TypeError: it is no text, or something in it is none.
        ValueError: a text holds half of a surrogate pair, which no encoding of text has.
    """
    if isinstance(texts, str):
        return texts_of([texts])
    _check_many(texts, "texts", TEXTS)
    listed = list(texts)
    for number, text in enumerate(listed):
        if not isinstance(text, str):
            raise TypeError(f"texts[{number}] is of type {type(text).__name__}; expected {TEXTS}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"texts[{number}] holds {text[error.start]!a}, half of a surrogate pair; expected whole "
                "characters: remove it"
            ) from None
    return listed


def _is_picture(given: Any) -> bool:  # noqa: ANN401 - whatever a user gives
    if isinstance(given, np.ndarray):
        return given.ndim in (2, 3) and given.dtype.kind in "biuf"
    return isinstance(given, str | os.PathLike | bytes | bytearray | memoryview | Image.Image)


def _square(picture: Any, size: int) -> Tensor:  # noqa: ANN401
    return square_of(rgb_of(picture), size)


def _squares(pictures: Any, size: int) -> Iterator[Tensor]:  # noqa: ANN401
    _check_many(pictures, "pictures", PICTURES)
    for number, picture in enumerate(pictures):
        try:
            yield _square(picture, size)
        except (TypeError, ValueError, FileNotFoundError) as error:
            raise type(error)(f"pictures[{number}]: {error}") from None


def _check_many(given: Any, name: str, expected: str) -> None:  # noqa: ANN401
    if isinstance(given, NO_LISTS) or not isinstance(given, Iterable):
        raise TypeError(f"{name} are of type {type(given).__name__}; expected {expected}")
