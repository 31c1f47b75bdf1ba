"""Decode images of any allowed format to upright RGB JPEGs of limited size, or refuse with a reason."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

from components.download.refusal import Refused
from components.ml.vision.pictures import (
    FORMATS,
    UPRIGHT,
    Pixels,
    format_of,
    loaded,
    orientation_of,
    rgb_on_white,
    strips,
)
from components.ml.vision.pixels import shrunk
from components.settings.download import Images

MOVING_FORMATS = ("PNG", "WEBP", "GIF")
LARGE_PIXELS = 1 << 24  # a larger image, copied once more, would take hundreds of megabytes
GAP = 2  # a fast reduction stops at so many times the target size; a good resampling does the rest
HALF = 2  # decode a JPEG at half its size at most: other scales take longer or lose too much

# Pillow warns of decompression bombs, which our own limit covers, and of odd tags, common in web images
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class Picture:
    """A JPEG, and size and orientation of its original; sides in pixels."""

    jpeg: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    orientation: int  # of EXIF, already applied
    is_animated: bool = False  # this is its first frame


def picture_of(data: bytes, images: Images) -> Picture:
    """Decode an image of any allowed format and encode it as JPEG; take the first frame of an animation.

    Raises:
        Refused: no image, a format not allowed, too large, too small, too narrow, truncated or broken.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # a global that any library may have changed
    with _opened(data) as image:
        original = image.size
        _check_sides(*original, images)
        is_animated = _is_animated(image)
        pixels = _jpeg_pixels(image, data, images) if image.format == "JPEG" else None
        if pixels is None:
            with _refusing():
                image = loaded(image)
                pixels = _pixels(image, images)
        orientation = orientation_of(image)  # a PNG may store it after its pixels
    return replace(jpeg_of(pixels, images, original, orientation), is_animated=is_animated)


def jpeg_of(pixels: Pixels, images: Images, original: tuple[int, int], orientation: int = 1) -> Picture:
    """Shrink an image so that its longer side fits, turn it upright, and encode it without any metadata.

    Args:
        pixels: Pixels of the image, maybe already smaller than the original.
        images: Limits and JPEG quality, from params.
        original: Width and height of the original.
        orientation: EXIF orientation to apply.
    """
    height, width = _target_size(original, images)
    if pixels.shape[:2] != (height, width):
        pixels = shrunk(pixels, height, width)
    if orientation in UPRIGHT:
        pixels = UPRIGHT[orientation](pixels)
    target = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    # full colour resolution: thin coloured strokes of small images would blur
    image.save(target, "JPEG", quality=images.jpeg_quality, subsampling=0)
    return Picture(target.getvalue(), *image.size, *original, orientation)


def _target_size(original: tuple[int, int], images: Images) -> tuple[int, int]:
    """Return the target height and width, before the EXIF orientation is applied."""
    share = min(1.0, images.size / max(original))
    width, height = (max(1, round(side * share)) for side in original)
    return height, width


def _opened(data: bytes) -> Image.Image:
    if not data:
        raise Refused("empty_body")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        name = format_of(data)
        raise Refused(f"format_{name}" if name else "not_an_image") from None
    except Image.DecompressionBombError:
        raise Refused("too_many_pixels") from None
    except MemoryError:
        raise Refused("out_of_memory") from None  # the machine's limit, not an error of the image
    except Exception:  # a decoder may raise anything on untrusted bytes
        raise Refused("broken_image") from None


def _check_sides(width: int, height: int, images: Images) -> None:
    if width * height > images.max_pixels:
        raise Refused("too_many_pixels")
    if min(width, height) < images.min_side:
        raise Refused("too_small")
    if max(width, height) > images.max_aspect * min(width, height):
        raise Refused("aspect")


def _is_animated(image: Image.Image) -> bool:
    try:
        return image.format in MOVING_FORMATS and bool(getattr(image, "is_animated", False))
    except Exception:  # the data after the first frame is damaged, and not needed
        return False


def _jpeg_pixels(image: Image.Image, data: bytes, images: Images) -> Pixels | None:
    """Decode a plain JPEG, the large majority, in half Pillow's time; return None for any other image."""
    if image.mode not in ("RGB", "L"):
        return None
    height, width = (-(-side // HALF) for side in (image.height, image.width))
    if (height, width) < _target_size(image.size, images):
        height, width = image.height, image.width
    try:
        return simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
    except Exception:  # Pillow tolerates more: it decides, and gives the reason
        return None


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise Refused("out_of_memory") from None
    except Exception as error:  # a decoder may raise anything on untrusted bytes
        raise Refused("truncated" if "truncated" in str(error) else "broken_image") from None


def _pixels(image: Image.Image, images: Images) -> Pixels:
    if image.width * image.height > LARGE_PIXELS:
        return _reduced(image, images)
    return np.array(rgb_on_white(image))


def _reduced(image: Image.Image, images: Images) -> Pixels:
    """Shrink a large image: block means, strip by strip, to `GAP` times the target size, then resample."""
    height, width = _target_size(image.size, images)
    block = max(1, min(image.width // width, image.height // height) // GAP)  # side of a block, in pixels
    parts = (rgb_on_white(image.crop(strip)) for strip in strips(image, block))
    reduced = np.concatenate([np.asarray(part.reduce(block)) for part in parts])
    box = (0, 0, image.width / block, image.height / block)  # the last blocks may be cut off
    return np.asarray(Image.fromarray(reduced).resize((width, height), Image.Resampling.BICUBIC, box))
