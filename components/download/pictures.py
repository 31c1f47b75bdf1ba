"""Bytes from anywhere to a plain upright RGB JPEG of bounded size, or the reason why not."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

from PIL import Image, ImageFile, UnidentifiedImageError

from components.download.refusal import Refused
from components.settings.download import Images

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
OTHER_FORMATS = (
    b"II*\0",  # TIFF
    b"MM\0*",
    b"8BPS",  # Photoshop
    b"%!PS",  # PostScript
    b"%PDF",
    b"\0\0\1\0",  # icon
    b"<svg",
    b"<?xml",
)
BOXED_FORMATS = (b"ftypavif", b"ftypheic", b"ftypmif1")  # from byte 4
ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WHITE = (255, 255, 255, 255)
SIXTEEN_TO_EIGHT_BITS = 1 / 257  # 65535 becomes 255
DRAFT = 2  # a JPEG is decoded at no less than so many times the wanted size

# our own limit on pixels is checked before anything is decoded
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Picture:
    """A JPEG and what it came from; sides in pixels."""

    jpeg: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    orientation: int  # of EXIF, already applied


def picture_of(data: bytes, images: Images) -> Picture:
    """Decode an image of any allowed kind and make a JPEG of it; the first frame of a moving one.

    Raises:
        Refused: it is no image, of another format, too large, too small, too narrow, truncated or broken.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # a global that any library may have changed
    with _opened(data) as image:
        original = image.size
        _check_sides(*original, images)
        orientation = _orientation(image)
        try:
            image.draft("RGB", (DRAFT * images.size, DRAFT * images.size))
            image.load()
            upright = _plain_rgb(image)
        except Exception as error:  # a decoder fed with anything raises anything
            raise Refused("truncated" if "truncated" in str(error) else "broken_image") from None
    if orientation in UPRIGHT:
        upright = upright.transpose(UPRIGHT[orientation])
    return jpeg_of(upright, images, original, orientation)


def jpeg_of(image: Image.Image, images: Images, original: tuple[int, int], orientation: int = 1) -> Picture:
    """Shrink an RGB image so that its longer side fits, and encode it without any metadata."""
    share = min(1.0, images.size / max(image.size))
    width, height = (max(1, round(side * share)) for side in image.size)
    if share < 1:
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    target = io.BytesIO()
    # full colour resolution: thin coloured strokes of small images would blur
    image.save(target, "JPEG", quality=images.jpeg_quality, subsampling=0)
    return Picture(target.getvalue(), width, height, *original, orientation)


def _opened(data: bytes) -> Image.Image:
    if not data:
        raise Refused("empty_body")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        known = data.lstrip().startswith(OTHER_FORMATS) or data[4:12] in BOXED_FORMATS
        raise Refused("format_not_allowed" if known else "not_an_image") from None
    except Image.DecompressionBombError:
        raise Refused("too_many_pixels") from None
    except Exception:  # a decoder fed with anything raises anything
        raise Refused("broken_image") from None


def _check_sides(width: int, height: int, images: Images) -> None:
    if width * height > images.max_pixels:
        raise Refused("too_many_pixels")
    if min(width, height) < images.min_side:
        raise Refused("too_small")
    if max(width, height) > images.max_aspect * min(width, height):
        raise Refused("aspect")


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata does not spoil the pixels
        return 1
    return found if found in UPRIGHT else 1


def _plain_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return (
            image.convert("I").point(lambda value: value * SIXTEEN_TO_EIGHT_BITS).convert("L").convert("RGB")
        )
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, WHITE), picture).convert("RGB")
    return image.convert("RGB")
