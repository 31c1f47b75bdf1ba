"""The same files through download, training, evaluation, recaptioning and a release: the same pixels."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from components.download.pictures import picture_of
from components.ml.vision import pictures
from components.ml.vision.pictures import decode_rgb, format_of, rgb_of, rgb_on_white
from components.ml.vision.pixels import decode_image, square_of
from components.settings.download import Images

SIDE = 16
IMAGES = Images(
    size=SIDE, jpeg_quality=100, min_side=1, max_pixels=10_000, max_aspect=99.0, decode_deadline_seconds=30.0
)
RED, BLUE, CLEAR = (220, 20, 20), (20, 20, 220), (255, 255, 255)
TURNED = Image.Exif()
TURNED[0x0112] = 6
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def coded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(depth: int, colour: int, row: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of equal rows."""
    head = (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour, 0, 0, 0))
    pixels = (b"IDAT", zlib.compress((b"\0" + row) * SIDE))
    parts = [chunk(*part) for part in (head, *chunks, pixels, (b"IEND", b""))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def halves(left: Any, right: Any, mode: str = "RGB") -> Image.Image:
    """Return a square of two colours."""
    image = Image.new(mode, (SIDE, SIDE), left)
    image.paste(right, (SIDE // 2, 0, SIDE, SIDE))
    return image


def grey16(*values: int) -> bytes:
    return struct.pack(">16H", *(value for value in values for _ in range(SIDE // len(values))))


def palette(kind: str, transparency: Any) -> bytes:
    image = halves(0, 1, "P")
    image.putpalette([*RED, *BLUE])
    return coded(image, kind, transparency=transparency)


# a file, and what its left and right (upper and lower where it is turned) quarters show
FILES: dict[str, tuple[bytes, tuple[Any, Any], bool]] = {
    "jpeg": (coded(halves(RED, BLUE), "JPEG", quality=100, subsampling=0), (RED, BLUE), False),
    "jpeg grey": (coded(halves(40, 200, "L"), "JPEG", quality=100), ((40,) * 3, (200,) * 3), False),
    "jpeg turned": (
        coded(halves(RED, BLUE), "JPEG", quality=100, subsampling=0, exif=TURNED), (RED, BLUE), True
    ),
    "jpeg turned by xmp": (
        coded(halves(RED, BLUE), "JPEG", quality=100, subsampling=0, xmp=XMP), (RED, BLUE), True
    ),
    "jpeg cmyk": (
        coded(halves((0, 255, 255, 0), (255, 255, 0, 0), "CMYK"), "JPEG", quality=100),
        ((255, 0, 0), (0, 0, 255)), False,
    ),
    "png turned": (coded(halves(RED, BLUE), "PNG", exif=TURNED), (RED, BLUE), True),
    "png turned by xmp": (
        png(8, 2, bytes(RED * 8 + BLUE * 8), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
        (RED, BLUE), True,
    ),
    "webp turned by xmp": (
        coded(halves(RED, BLUE), "WEBP", lossless=True, xmp=XMP), (RED, BLUE), True
    ),
    "rgba": (coded(halves((*RED, 255), (0, 0, 0, 0), "RGBA"), "PNG"), (RED, CLEAR), False),
    "rgba half": (
        coded(halves((0, 0, 0, 128), (*BLUE, 255), "RGBA"), "PNG"), ((127,) * 3, BLUE), False
    ),
    "rgba webp": (
        coded(halves((*RED, 255), (0, 0, 0, 0), "RGBA"), "WEBP", lossless=True), (RED, CLEAR), False
    ),
    "la": (coded(halves((40, 255), (0, 0), "LA"), "PNG"), ((40,) * 3, CLEAR), False),
    "1": (coded(halves(0, 1, "1"), "PNG"), ((0,) * 3, CLEAR), False),
    "palette": (palette("PNG", 1), (RED, CLEAR), False),
    "palette of alphas": (palette("PNG", b"\0\xff"), (CLEAR, BLUE), False),
    "gif": (palette("GIF", 0), (CLEAR, BLUE), False),
    "gif moving": (
        coded(halves(RED, BLUE), "GIF", save_all=True, append_images=[Image.new("RGB", (SIDE, SIDE))]),
        (RED, BLUE), False,
    ),
    "bmp": (coded(halves(RED, BLUE), "BMP"), (RED, BLUE), False),
    "grey of 16 bits": (png(16, 0, grey16(128 * 257, 65535)), ((128,) * 3, CLEAR), False),
    "dark grey of 16 bits": (png(16, 0, grey16(255, 128)), ((1,) * 3, (0,) * 3), False),
    "one clear grey of 16 bits": (
        png(16, 0, grey16(1000, 1001), (b"tRNS", struct.pack(">H", 1000))), (CLEAR, (4,) * 3), False
    ),
    "one clear grey of 8 bits": (
        png(8, 0, bytes([7] * 8 + [8] * 8), (b"tRNS", struct.pack(">H", 7))), (CLEAR, (8,) * 3), False
    ),
    "one clear grey of 4 bits": (
        png(4, 0, bytes([0x11] * 4 + [0x22] * 4), (b"tRNS", struct.pack(">H", 1))),
        (CLEAR, (34,) * 3), False,
    ),
    "one clear grey of 2 bits": (
        png(2, 0, bytes([0x55] * 2 + [0xAA] * 2), (b"tRNS", struct.pack(">H", 2))),
        ((85,) * 3, CLEAR), False,
    ),
    "one clear grey of 1 bit": (
        png(1, 0, bytes([0x00, 0xFF]), (b"tRNS", struct.pack(">H", 0))), (CLEAR, CLEAR), False
    ),
    "one clear colour": (
        png(8, 2, bytes(RED * 8 + BLUE * 8), (b"tRNS", struct.pack(">3H", *RED))), (CLEAR, BLUE), False
    ),
    "one clear colour of 16 bits": (
        png(
            16, 2, struct.pack(">3H", 2560, 5120, 7680) * 8 + struct.pack(">3H", 2560, 5120, 7681) * 8,
            (b"tRNS", struct.pack(">3H", 2560, 5120, 7681)),
        ),
        ((10, 20, 30), CLEAR), False,
    ),
}  # fmt: skip


def by_download(data: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(picture_of(data, IMAGES).jpeg)) as image:
        return np.asarray(image)


def by_training(data: bytes) -> np.ndarray[Any, Any]:
    """As evaluation and the scores of recaption do."""
    return decode_image(data, SIDE).numpy().transpose(1, 2, 0)


def of_pillow(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(rgb_of(Image.open(io.BytesIO(data))))


def of_file(data: bytes, folder: Path) -> np.ndarray[Any, Any]:
    path = folder / "picture"
    path.write_bytes(data)
    assert np.array_equal(np.asarray(rgb_of(path)), np.asarray(rgb_of(str(path))))
    return np.asarray(rgb_of(path))


@pytest.mark.parametrize("name", FILES)
def test_every_way_gives_the_same_upright_picture_on_white(name: str, tmp_path: Path) -> None:
    data, (first, second), is_turned = FILES[name]
    expected = np.asarray(halves(first, second))
    if is_turned:
        expected = np.rot90(expected, -1)
    captioners = np.asarray(decode_rgb(data))
    assert np.abs(captioners.astype(int) - expected).max() <= (3 if name.startswith("jpeg") else 0)
    ways: list[Callable[[bytes], Any]] = [by_training, of_pillow, lambda data: rgb_of(data)]
    for way in ways:
        assert np.array_equal(np.asarray(way(data)), captioners)
    assert np.array_equal(of_file(data, tmp_path), captioners)
    assert np.abs(by_download(data).astype(int) - captioners).max() <= 3  # it is a JPEG once more


@pytest.mark.parametrize("name", FILES)
def test_a_user_s_own_picture_is_left_as_it_was_and_may_be_given_twice(name: str) -> None:
    image = Image.open(io.BytesIO(FILES[name][0]))
    once, twice = rgb_of(image), rgb_of(image)
    assert np.array_equal(np.asarray(once), np.asarray(twice))
    assert image.size == (SIDE, SIDE)
    assert np.array_equal(np.asarray(rgb_of(once)), np.asarray(once))
    assert np.array_equal(np.asarray(rgb_of(ImageOps.exif_transpose(image))), np.asarray(once)) or (
        "clear" in name  # Pillow has decoded those, in its own way
    )


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N", "I", "F"])
def test_wide_greys_are_scaled_and_not_clipped(mode: str) -> None:
    image = Image.new(mode, (4, 4), 30_000)
    assert np.asarray(rgb_of(image)).tolist() == [[[117] * 3] * 4] * 4


def test_odd_values_of_wide_greys_are_bounded() -> None:
    values = np.array([[-1.0, np.nan, np.inf, 70_000.0, 65_535.0, 257.0]], np.float32)
    assert np.asarray(rgb_of(Image.fromarray(values)))[0, :, 0].tolist() == [0, 0, 255, 255, 255, 1]
    assert np.asarray(rgb_of(Image.fromarray(np.array([[-5, 70_000]], np.int32))))[0, :, 0].tolist() == [
        0,
        255,
    ]


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "YCbCr", "HSV", "RGBX", "LAB"])
def test_rarer_modes_of_pillow(mode: str) -> None:
    source = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode, "RGB")
    colours: dict[str, Any] = {"LA": (90, 255), "RGBA": (*RED, 255), "P": 0}
    image = Image.new(source, (4, 4), colours.get(source, RED))
    if mode == "LAB":
        image = Image.new("LAB", (4, 4), (255, 128, 128))
        assert np.asarray(rgb_of(image)).min() > 250
        return
    shown = np.asarray(rgb_of(image.convert(mode)))
    assert np.abs(shown.astype(int) - np.asarray(image.convert("RGB"))).max() <= 2


def test_arrays() -> None:
    colours = np.asarray(halves(RED, BLUE))
    assert np.array_equal(np.asarray(rgb_of(colours)), colours)
    clear = np.dstack([colours, np.zeros((SIDE, SIDE), np.uint8)])
    assert np.asarray(rgb_of(clear)).min() == 255
    assert np.asarray(rgb_of(np.full((4, 4), 30_000, np.uint16))).max() == 117
    assert np.asarray(rgb_of(np.eye(4, dtype=bool)))[:, :, 0].tolist() == (np.eye(4) * 255).tolist()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"an array of uint8 \(3, 8, 8\); expected \(H, W\)"),
        (np.zeros((8, 8, 3), np.float32), r"an array of float32 \(8, 8, 3\); expected \(H, W\)"),
        (
            None,
            "of type NoneType; expected a path, the bytes of a file, a PIL image or a numpy array",
        ),
    ],
)
def test_what_is_no_picture_is_a_type_error(given: Any, expected: str) -> None:
    with pytest.raises(TypeError, match=expected):
        rgb_of(given)


def test_files_that_are_missing_or_broken_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.jpg not found; expected an image file"):
        rgb_of(tmp_path / "none.jpg")
    noise = Image.frombytes("L", (96, 96), random.Random(7).randbytes(96 * 96))  # noqa: S311
    (tmp_path / "cut.jpg").write_bytes(coded(noise, "JPEG")[:4000])
    with pytest.raises(ValueError, match=r"cut\.jpg: 4000 bytes that are no readable image .*(?i:truncated)"):
        rgb_of(tmp_path / "cut.jpg")
    with pytest.raises(ValueError, match=r"cut\.jpg cannot be decoded .*(?i:truncated)"):
        rgb_of(Image.open(tmp_path / "cut.jpg"))
    (tmp_path / "b.avif").write_bytes(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf")
    with pytest.raises(ValueError, match=r"b\.avif: 28 bytes that are no readable image \(format avif\)"):
        rgb_of(tmp_path / "b.avif")
    with Image.open(io.BytesIO(FILES["rgba"][0])) as closed:
        pass
    with pytest.raises(ValueError, match="a PIL image cannot be decoded"):
        rgb_of(closed)
    with pytest.raises(ValueError, match="0 x 0 pixels"):
        rgb_of(Image.new("RGB", (0, 0)))


def test_pillow_has_decoded_a_clear_colour_of_16_bits() -> None:
    """Its low bytes are gone: the colour is compared by its high ones."""
    image = Image.open(io.BytesIO(FILES["one clear colour of 16 bits"][0]))
    image.load()
    assert np.asarray(rgb_of(image)).min() == 255
    assert image.info["transparency"] == (2560, 5120, 7681)


def test_a_clear_colour_of_16_bits_is_found_strip_by_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    data = FILES["one clear colour of 16 bits"][0]
    whole = np.asarray(decode_rgb(data))
    monkeypatch.setattr(pictures, "STRIP_PIXELS", 3 * SIDE)
    assert np.array_equal(np.asarray(decode_rgb(data)), whole)


def test_a_part_of_a_picture_looks_as_that_part_of_the_whole() -> None:
    for data, _, _ in FILES.values():
        image = pictures.loaded(Image.open(io.BytesIO(data)))
        part = np.asarray(rgb_on_white(image.crop((4, 2, 12, 9))))
        assert np.array_equal(part, np.asarray(rgb_on_white(image))[2:9, 4:12])


def test_squares_are_upright_and_on_white() -> None:
    image = Image.open(io.BytesIO(FILES["rgba half"][0]))
    assert np.array_equal(square_of(image, SIDE).numpy().transpose(1, 2, 0), np.asarray(rgb_of(image)))


SVG = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
DOCTYPE = b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "svg11.dtd">'
ENTITIES = b'<!DOCTYPE svg [ <!ENTITY ns "http://www.w3.org/2000/svg"> ]>'


def boxed(major: bytes, *others: bytes) -> bytes:
    """Return the first box of a file in the ISO base media file format, and what may follow it."""
    content = b"ftyp" + major + bytes(4) + b"".join(others)
    return (len(content) + 4).to_bytes(4, "big") + content + b"\0\0\0\x08avif"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        *((boxed(brand, b"mif1"), "avif") for brand in (b"avif", b"avis")),
        *((boxed(brand, b"mif1"), "heic") for brand in (b"heic", b"heix", b"heim", b"heis")),
        *((boxed(brand, b"msf1"), "heic") for brand in (b"hevc", b"hevx", b"hevm", b"hevs")),
        (boxed(b"mif1", b"mif1", b"heic"), "heic"),
        (boxed(b"mif1", b"miaf", b"avif"), "avif"),
        (boxed(b"msf1", b"hevc"), "heic"),
        (boxed(b"mif1"), "heif"),
        (b"\xff\x0a\xfa\x1f\x81\x91\x08\x06", "jxl"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + boxed(b"jxl "), "jxl"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + boxed(b"jp2 "), "jp2"),
        (b"\xff\x4f\xff\x51" + bytes(20), "jp2"),
        (b"II*\0" + bytes(20), "tiff"),
        (b"MM\0*" + bytes(20), "tiff"),
        (b"II+\0" + bytes(20), "tiff"),
        (b"MM\0+" + bytes(20), "tiff"),
        (b"II\xbc\x01" + bytes(20), "jxr"),
        (b"8BPS\0\1" + bytes(40), "psd"),
        (b"%PDF-1.7\n", "pdf"),
        (b"\n%PDF-1.7\n", "pdf"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "eps"),
        (b"\0\0\1\0\1\0" + bytes(20), "ico"),
        (SVG, "svg"),
        (b" \n\t" + SVG, "svg"),
        (b"<!-- made by <b>hand</b> -->\n<!-- twice -->" + SVG, "svg"),
        (b"\xef\xbb\xbf" + SVG, "svg"),
        (b"\xef\xbb\xbf\n<?xml version='1.0'?>\n<!-- a -->" + DOCTYPE + SVG, "svg"),
        (b"<?xml version='1.0'?>" + ENTITIES + b"<!-- b --><svg:svg xmlns:svg='x'>", "svg"),
        (b"<?xml-stylesheet href='a.css'?><SVG>", "svg"),
        (("\ufeff<?xml version='1.0' encoding='utf-16'?>" + SVG.decode()).encode("utf-16-le"), "svg"),
        (("\ufeff" + SVG.decode()).encode("utf-16-be"), "svg"),
        (SVG.decode().encode("utf-16-le"), "svg"),
        (gzip.compress(SVG), "svg"),
        # and what is no image stays so
        (b"", None),
        (b"<html><body><svg/></body></html>", None),
        (b"<!-- <svg/> --><html>", None),
        (b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'>", None),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", None),
        (b"<svgs/>", None),
        (b"{\"error\": 404}", None),
        (b"\x1f\x8b no gzip", None),
        (gzip.compress(b"<html>"), None),
        (boxed(b"isom", b"iso2", b"avc1", b"mp41"), None),
        (boxed(b"mp42", b"isom"), None),
        (boxed(b"qt  "), None),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"<!--" * 20_000, None),
        (b"<!DOCTYPE svg [" + b"]" * 60_000, None),
    ],
)  # fmt: skip
def test_formats_are_known_by_their_first_bytes(data: bytes, expected: str | None) -> None:
    assert format_of(data) == expected
