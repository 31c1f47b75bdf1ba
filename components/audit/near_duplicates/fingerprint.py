"""Fingerprint of one image: sha256, 64-bit difference hash, small colour thumbnail."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from components.errors import DataError

HASH_SIDE = 8
THUMBNAIL_SIDE = 16
THUMBNAIL_BYTES = THUMBNAIL_SIDE * THUMBNAIL_SIDE * 3


@dataclass(frozen=True)
class Fingerprint:
    """Of one image."""

    key: str
    split: str
    sha256: bytes
    difference_hash: int
    width: int
    height: int
    bytes: int
    thumbnail: NDArray[np.uint8]  # (768,)


def difference_hash(image: Image.Image) -> int:
    """Return the 64-bit difference hash: whether the right neighbour is brighter, at 8 x 8 places.

    Source: N. Krawetz, "Kind of Like That" (2013).
    """
    grey = image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(grey, np.int16)
    bits = pixels[:, 1:] > pixels[:, :-1]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """Return the image's 16 x 16 averages in colour, flat."""
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return np.asarray(image.convert("RGB").resize(side, Image.Resampling.BOX), np.uint8).reshape(-1)


def fingerprint(jpeg: bytes, key: str, split: str) -> Fingerprint:
    """Return what one image is compared by.

    Raises:
        DataError: it cannot be decoded.
    """
    image = _decoded(jpeg, key)
    return Fingerprint(
        key=key,
        split=split,
        sha256=sha256(jpeg).digest(),
        difference_hash=difference_hash(image),
        width=image.width,
        height=image.height,
        bytes=len(jpeg),
        thumbnail=thumbnail(image),
    )


def _decoded(jpeg: bytes, key: str) -> Image.Image:
    """Decode an image at its own size.

    JPEG's own shrinking saves a tenth to a half of the time, and moves a thumbnail by up to 5 grey levels at
    half the size, 20 at a quarter: as much as two images that look the same may differ by.
    """
    with suppress(Exception):  # Pillow, which forgives more, has the last word and the reason
        return Image.fromarray(simplejpeg.decode_jpeg(jpeg, "RGB"))  # Pillow's pixels, in half its time
    try:
        with Image.open(BytesIO(jpeg), formats=["JPEG"]) as image:
            image.load()
            return image
    except (UnidentifiedImageError, OSError) as error:
        raise undecodable(key, str(error)) from None


def undecodable(key: str, why: str) -> DataError:
    """Return what to say of an image that cannot be decoded."""
    return DataError(
        f"image {key} cannot be decoded ({why}); expected the JPEG that download wrote: "
        "`llm2clip forget download shards` has all fetched again, `--shard NAME` one shard alone"
    )
