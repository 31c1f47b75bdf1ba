"""Detect a picture's format from its first bytes."""

from __future__ import annotations

import re
import zlib

HEAD_BYTES = 1 << 16  # what comes before the first element of an SVG may be long
MAGIC = (
    (b"\xff\x0a", "jxl"),  # JPEG XL, the bare codestream
    (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
    (b"\xff\x4f\xff\x51", "jp2"),  # JPEG 2000, the bare codestream
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
PNG_HEAD_BYTES = 26  # bit depth and kind of colour are the last two
GZIP = b"\x1f\x8b"
# brands of the ISO base media file format; those of mp4 and other video are not among them
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


def format_of(data: bytes) -> str | None:
    """Return the name of a format that is not decoded here, such as `avif` or `svg`; None for all else."""
    start = data[:HEAD_BYTES].lstrip()
    for magic, name in MAGIC:
        if start.startswith(magic) or data.startswith(magic):
            return name
    return _of_brands(data) or ("svg" if _is_svg(data) else None)


def preparation_of(data: bytes) -> list[str]:
    """Return what tells that a file is prepared in a newer way than its like once was; mostly nothing.

    Whoever keeps what became of a file makes it part of the key: greys of 16 bits are rounded now, and what
    is transparent in a PNG of 2, 4 or 16 bits becomes white.
    """
    depth, colour = data[24:25], data[25:26]
    is_grey, is_colour = colour == b"\0", colour == b"\2"
    is_newer = (depth == b"\x10" and (is_grey or is_colour)) or (depth in (b"\2", b"\4") and is_grey)
    return ["bit depths"] if data.startswith(PNG) and is_newer else []


def _of_brands(data: bytes) -> str | None:
    """Return the format of a HEIF container: its own brand, or what it says it can also be read as."""
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), MOST_BRANDS_BYTES)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]
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
    """Return text by its byte order mark, or by where the first `<` has its zero byte."""
    for marks, encoding in (((b"\xff\xfe", b"<\0"), "utf-16-le"), ((b"\xfe\xff", b"\0<"), "utf-16-be")):
        if head.startswith(marks):
            return head.decode(encoding, "replace").removeprefix("\ufeff")
    return head.decode("utf-8", "replace").removeprefix("\ufeff")
