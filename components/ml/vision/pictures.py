"""Decode pictures to upright RGB on white, the same for download, training and releases.

- The orientation of EXIF is applied, or of XMP if EXIF has none, as Pillow reads them.
- Transparent pixels become white; half-transparent ones are blended with white.
- 16-bit grey is scaled to 8 bits. Pillow's modes I and F are read as 16 bits as well: 65535 is white.
- Of an animation the first frame is used, or the current frame of a Pillow image.
"""

from __future__ import annotations

import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # (H, W, 3), RGB
Picture = str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 64_000_000  # a larger picture counts as a decompression bomb
WHITE = (255, 255, 255)
ORIENTATION_TAG = 0x0112
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels[::-1].transpose(1, 0, 2),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: pixels[:, ::-1].transpose(1, 0, 2),
}
WIDE_MODES = ("I", "F")  # and all that start with `I;16`
MOST = 65535  # largest value of 16 bits
FEW_BITS = {"L;2": 3, "L;4": 15}  # largest grey of a PNG, by Pillow's name of its row format
WIDE_RGB, LOW_BYTES = "RGB;16B", "RGB;16L"
STRIP_PIXELS = 1 << 20
DECODING_ERRORS = (  # known errors of Pillow
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
HEAD_BYTES = 1 << 16  # the part before the first element of an SVG may be long
MAGIC = (
    (b"\xff\x0a", "jxl"),  # JPEG XL, bare codestream
    (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
    (b"\xff\x4f\xff\x51", "jp2"),  # JPEG 2000, bare codestream
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),  # BigTIFF
    (b"MM\0+", "tiff"),
    (b"II\xbc\x01", "jxr"),  # JPEG XR
    (b"8BPS", "psd"),
    (b"%PDF-", "pdf"),
    (b"%!PS", "eps"),
    (b"\xc5\xd0\xd3\xc6", "eps"),  # with a preview
    (b"\0\0\1\0", "ico"),
    (b"icns", "icns"),
    (b"v/1\x01", "exr"),
    (b"#?RADIANCE", "hdr"),
    (b"qoif", "qoi"),
    (b"DDS ", "dds"),
    (b"gimp xcf ", "xcf"),
    (b"AT&TFORM", "djvu"),
)
PNG = b"\x89PNG\r\n\x1a\n"
PNG_HEAD_BYTES = 26  # the last two bytes are bit depth and colour type
GZIP = b"\x1f\x8b"
# brands of the ISO base media file format, without mp4 and other video
BRANDS = (
    dict.fromkeys((b"avif", b"avis", b"avio"), "avif")
    | dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "heic")
    | dict.fromkeys((b"mif1", b"mif2", b"msf1", b"miaf", b"avci", b"avcs", b"jpeg", b"jpgs"), "heif")
)
MOST_BRANDS_BYTES = 256
SVG = re.compile(
    r"(?>\s+|<!--.*?-->|<\?.*?\?>|<!DOCTYPE[^\[>]*+(?:>|\[.*?\]\s*+>))*+<(?:[\w.-]++:)?svg[\s/>]",
    re.DOTALL | re.IGNORECASE,
)


def decode_rgb(data: bytes) -> Image.Image:
    """Decode one file as an upright RGB picture on white, at its own size.

    Args:
        data: A whole JPEG, PNG, WebP, GIF or BMP file.

    Raises:
        ValueError: the bytes are no such file, are cut off, or have more than `MAX_PIXELS` pixels.
    """
    with opened(data) as image:
        return upright_rgb(image)


def rgb_of(picture: Picture) -> Image.Image:
    """Return a picture of any supported type as an upright RGB picture on white.

    Args:
        picture: A path, the bytes of a file, a Pillow image, or an array: (H, W) uint8, uint16 or bool,
            (H, W, 3) or (H, W, 4) uint8.

    Raises:
        FileNotFoundError: the file does not exist.
        TypeError: the picture is of another type.
        ValueError: it cannot be decoded.
    """
    if isinstance(picture, str | os.PathLike):
        return _rgb_of_file(Path(picture))
    if isinstance(picture, bytes | bytearray | memoryview):
        return decode_rgb(bytes(picture))
    if isinstance(picture, np.ndarray):
        picture = _from_array(picture)
    if not isinstance(picture, Image.Image):
        raise TypeError(
            f"a picture is of type {type(picture).__name__}; expected a path, the bytes of a file, a "
            "PIL image or a numpy array"
        )
    try:
        if 0 in picture.size:
            raise ValueError(f"{picture.width} x {picture.height} pixels")
        return upright_rgb(picture)
    except DECODING_ERRORS as error:  # Pillow decodes lazily
        name, reason = getattr(picture, "filename", "") or "a PIL image", str(error) or type(error).__name__
        raise ValueError(
            f"{name} cannot be decoded ({reason}); expected a whole picture, still open"
        ) from None


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an upright RGB copy of a picture on white, without orientation metadata."""
    image = loaded(image)
    rgb, orientation = rgb_on_white(image), orientation_of(image)
    if orientation in UPRIGHT:
        rgb = Image.fromarray(np.ascontiguousarray(UPRIGHT[orientation](np.asarray(rgb))))
    rgb.info = {}
    return rgb


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """Open the bytes of a file; an error within the block, such as in decoding, becomes a ValueError too.

    Raises:
        ValueError: see `decode_rgb`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels")
            yield image
    except DECODING_ERRORS as error:
        name = format_of(data)
        raise ValueError(
            f"{len(data)} bytes that are no readable image ({f'format {name}' if name else error}); "
            f"expected a whole {', '.join(FORMATS)} file of at most {MAX_PIXELS} pixels"
        ) from None


def loaded(image: Image.Image) -> Image.Image:
    """Decode a picture if it is not yet decoded, so that `rgb_on_white` finds transparent pixels.

    For a PNG with a transparent colour, Pillow compares greys of 2 or 4 bits and colours of 16 bits wrongly.
    The former are scaled here; the latter are made white before their low bytes are lost.
    """
    row_format = _row_format(image)
    transparent = image.info.get("transparency")
    if row_format in FEW_BITS and isinstance(transparent, int):
        image.load()
        image.info["transparency"] = transparent * 255 // FEW_BITS[row_format]
    elif row_format == WIDE_RGB and isinstance(transparent, tuple):
        return _white_where(image, transparent)
    else:
        image.load()
    return image


def rgb_on_white(image: Image.Image) -> Image.Image:
    """Return a picture, or a part of it, in RGB on white, not rotated; it must be `loaded`."""
    if image.mode in WIDE_MODES or image.mode.startswith("I;16"):
        return _grey_of_16_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":  # premultiplied by alpha
        image = image.convert("LA")
    transparent = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > WHITE[0]:
        # 16 bits without low bytes: the picture was decoded by other code
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    picture = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, (*WHITE, 255)), picture).convert("RGB")


def orientation_of(image: Image.Image) -> int:
    """Return the orientation 1 to 8 of EXIF or XMP; 1 if it is invalid or damaged."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata does not affect the pixels
        return 1
    return orientation if orientation in UPRIGHT else 1


def strips(image: Image.Image, multiple: int = 1) -> list[tuple[int, int, int, int]]:
    """Return boxes over the whole width of a picture; heights except the last are multiples of `multiple`."""
    rows = multiple * max(1, STRIP_PIXELS // (multiple * image.width))
    return [(0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)]


def _rgb_of_file(path: Path) -> Image.Image:
    try:
        return decode_rgb(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} not found; expected an image file") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if array.ndim == 2 and array.dtype in (np.uint8, np.uint16, np.bool_):
        return Image.fromarray(np.ascontiguousarray(array))
    if array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    raise TypeError(
        f"a picture is an array of {array.dtype} {array.shape}; expected (H, W) uint8, uint16 or bool, or "
        "(H, W, 3) or (H, W, 4) uint8"
    )


def _row_format(image: Image.Image) -> str | None:
    """Return Pillow's name of the row format of a PNG that is not decoded yet."""
    tiles = getattr(image, "tile", None)
    return str(tiles[0].args) if image.format == "PNG" and tiles else None


def _white_where(image: Any, transparent: tuple[int, ...]) -> Image.Image:  # noqa: ANN401 - of a file
    """Decode a PNG of 16-bit colours twice, for high and low bytes, and make its transparent colour white."""
    position = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    image.fp.seek(position)
    high, low = (Image.open(BytesIO(data), formats=["PNG"]) for _ in range(2))
    low.tile = [low.tile[0]._replace(args=LOW_BYTES)]
    for half in (high, low):
        half.load()
    for box in strips(high):
        first, second = (np.asarray(half.crop(box)).astype(np.uint16) for half in (high, low))
        is_transparent = ((first << 8 | second) == np.array(transparent)).all(axis=2)
        high.paste(WHITE, box, Image.fromarray(is_transparent))
    del high.info["transparency"]
    return high


def _grey_of_16_bits(image: Image.Image) -> Image.Image:
    """Scale a 16-bit grey picture to 8 bits; its transparent value becomes white."""
    values = np.asarray(image)
    transparent = image.info.get("transparency")
    is_transparent = values == transparent if isinstance(transparent, int) else None
    if values.dtype.kind != "u":
        values = np.clip(np.nan_to_num(values), 0, MOST)
    grey = ((values.astype(np.uint32) * 255 + MOST // 2) // MOST).astype(np.uint8)
    if is_transparent is not None:
        grey[is_transparent] = WHITE[0]
    return Image.fromarray(grey).convert("RGB")


def format_of(data: bytes) -> str | None:
    """Return the name of a known unsupported format, such as `avif` or `svg`; None for all others."""
    start = data[:HEAD_BYTES].lstrip()
    for magic, name in MAGIC:
        if start.startswith(magic) or data.startswith(magic):
            return name
    return _brand_format(data) or ("svg" if _is_svg(data) else None)


def preparation_of(data: bytes) -> list[str]:
    """Return cache-key parts for files whose preparation has changed; mostly empty.

    Caches of prepared files add it to their key: 16-bit greys are now rounded, and transparent pixels of a
    PNG of 2, 4 or 16 bits become white.
    """
    depth, colour = data[24:25], data[25:26]
    is_grey, is_colour = colour == b"\0", colour == b"\2"
    is_newer = (depth == b"\x10" and (is_grey or is_colour)) or (depth in (b"\2", b"\4") and is_grey)
    return ["bit depths"] if data.startswith(PNG) and is_newer else []


def _brand_format(data: bytes) -> str | None:
    """Return the format of a HEIF container: its major brand, or a compatible one."""
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), MOST_BRANDS_BYTES)
    brands = [data[8:12], *(data[offset : offset + 4] for offset in range(16, end, 4))]
    names = [BRANDS[brand] for brand in brands if brand in BRANDS]
    return next((name for name in names if name != "heif"), names[0] if names else None)


def _is_svg(data: bytes) -> bool:
    if data.startswith(GZIP):
        try:
            data = zlib.decompressobj(wbits=31).decompress(data, HEAD_BYTES)
        except zlib.error:
            return False
    return SVG.match(_text(data[:HEAD_BYTES])) is not None


def _text(head: bytes) -> str:
    """Decode text by its byte order mark, or by the zero byte beside the first `<`."""
    for marks, encoding in (((b"\xff\xfe", b"<\0"), "utf-16-le"), ((b"\xfe\xff", b"\0<"), "utf-16-be")):
        if head.startswith(marks):
            return head.decode(encoding, "replace").removeprefix("\ufeff")
    return head.decode("utf-8", "replace").removeprefix("\ufeff")
