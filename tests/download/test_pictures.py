from __future__ import annotations

import io
import random
import resource
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from components.download import pictures
from components.download.pictures import Picture, picture_of
from components.download.refusal import Refused
from components.settings.download import Images
from components.settings.params import load_params
from tests.conftest import ROOT

IMAGES = Images(
    size=64,
    jpeg_quality=95,
    min_side=8,
    max_pixels=1_000_000,
    max_aspect=4.0,
    decode_deadline_seconds=30.0,
)
RED, BLUE = (220, 20, 20), (20, 20, 220)


def photo(width: int = 80, height: int = 40) -> Image.Image:
    """Left half red, right half blue, with a green upper left corner, so that each turn of it differs."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    image.paste((20, 200, 20), (0, 0, width // 4, height // 2))
    return image


def coded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(picture: Picture) -> Image.Image:
    image = Image.open(io.BytesIO(picture.jpeg))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (picture.width, picture.height))
    assert not image.getexif()
    assert "icc_profile" not in image.info
    return image


def reason(data: bytes, images: Images = IMAGES) -> str:
    with pytest.raises(Refused) as caught:
        picture_of(data, images)
    return caught.value.reason


def near(found: Any, expected: tuple[int, int, int], by: int = 12) -> bool:
    return all(abs(one - other) <= by for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_allowed_format_becomes_a_small_jpeg(kind: str) -> None:
    picture = picture_of(coded(photo(), kind), IMAGES)
    assert (picture.width, picture.height) == (64, 32)
    assert (picture.original_width, picture.original_height) == (80, 40)
    assert near(opened(picture).getpixel((60, 16)), BLUE)


def test_small_images_are_not_enlarged_and_large_ones_keep_their_shape() -> None:
    assert opened(picture_of(coded(photo(20, 10)), IMAGES)).size == (20, 10)
    assert opened(picture_of(coded(photo(301, 899)), IMAGES)).size == (21, 64)


@pytest.mark.parametrize("orientation", [*range(1, 9), 99])
def test_exif_orientation_is_applied_and_all_metadata_dropped(orientation: int) -> None:
    upright = photo(64, 32)
    turned_by = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(turned_by[orientation]) if orientation in turned_by else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "camera"
    exif.get_ifd(0x8825)[1] = "N"  # GPS
    result = opened(picture_of(coded(stored, exif=exif, quality=95), IMAGES))
    assert result.size == (64, 32)
    for spot in ((4, 4), (24, 4), (60, 28), (4, 28)):
        assert near(result.getpixel(spot), upright.getpixel(spot), 25), spot  # type: ignore[arg-type]


def test_modes_become_what_a_viewer_shows() -> None:
    ramp = Image.frombytes("I;16", (256, 16), b"".join(struct.pack("<H", 257 * x) for x in range(256)) * 16)
    wide = IMAGES.model_copy(update={"size": 256, "max_aspect": 99.0})
    grey = opened(picture_of(coded(ramp, "PNG"), wide))
    assert all(near(grey.getpixel((x, 8)), (x, x, x), 3) for x in (0, 64, 128, 255))

    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    for data in (
        coded(clear, "PNG"),
        coded(clear, "WEBP", lossless=True),
        coded(clear.convert("LA"), "PNG"),
        coded(palette, "PNG", transparency=0),
        coded(palette, "GIF", transparency=0),
    ):
        assert near(opened(picture_of(data, IMAGES)).getpixel((8, 8)), (255, 255, 255))

    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert near(opened(picture_of(coded(cmyk), IMAGES)).getpixel((8, 8)), (255, 0, 0))
    assert near(
        opened(picture_of(coded(Image.new("1", (16, 16), 1), "PNG"), IMAGES)).getpixel((8, 8)), (255,) * 3
    )


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_moving_images_give_their_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, BLUE)]
    data = coded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    picture = picture_of(data, IMAGES)
    assert picture.is_animated
    assert near(opened(picture).getpixel((16, 16)), RED)
    assert not picture_of(coded(frames[0], kind), IMAGES).is_animated
    rest = data[: len(data) - 10]  # of the second frame
    if kind == "GIF":
        assert near(opened(picture_of(rest, IMAGES)).getpixel((16, 16)), RED)


def test_every_cut_of_an_image_is_refused_whatever_a_library_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    draw = random.Random(7)  # noqa: S311
    noise = Image.frombytes("RGB", (96, 96), draw.randbytes(96 * 96 * 3))
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        data = coded(noise, kind)
        cuts = {draw.randrange(1, len(data) - 4) for _ in range(40)}
        reasons = {reason(data[:cut]) for cut in cuts}
        assert reasons <= {"truncated", "broken_image", "not_an_image"}
    assert reason(coded(noise)[:5000]) == "truncated"


def test_flipped_bits_never_raise_anything_else() -> None:
    draw = random.Random(7)  # noqa: S311
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        data = coded(photo(), kind)
        for _ in range(40):
            damaged = bytearray(data)
            damaged[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            try:
                opened(picture_of(bytes(damaged), IMAGES))
            except Refused as refused:
                assert refused.reason  # noqa: PT017 - either outcome is right


def test_what_follows_an_image_is_cut_off() -> None:
    data = coded(photo())
    assert picture_of(data + b"PK\x03\x04 an archive", IMAGES).jpeg == picture_of(data, IMAGES).jpeg


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty_body"),
        (b"<html>no image</html>", "not_an_image"),
        (b"\xff\xd8\xff\xe0 and no more", "broken_image"),
        (b"  <svg xmlns='http://www.w3.org/2000/svg'/>", "format_svg"),
        (b"\xef\xbb\xbf<!-- drawn --><svg xmlns='http://www.w3.org/2000/svg'/>", "format_svg"),
        (coded(photo(), "TIFF"), "format_tiff"),
        (coded(photo(), "ICO"), "format_ico"),
        (b"8BPS\0\1" + bytes(40), "format_psd"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "format_eps"),
        (coded(photo(), "AVIF"), "format_avif"),
        (b"\0\0\0\x20ftypheic" + bytes(40), "format_heic"),
        (b"\xff\x0a" + bytes(40), "format_jxl"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "not_an_image"),
        (coded(photo(1, 1), "PNG"), "too_small"),
        (coded(photo(400, 20), "PNG"), "aspect"),
        (coded(Image.new("1", (1001, 1000)), "PNG"), "too_many_pixels"),
        (coded(Image.new("1", (14000, 13000)), "PNG"), "too_many_pixels"),
    ],
)  # fmt: skip
def test_what_is_not_taken_says_why(data: bytes, expected: str) -> None:
    assert reason(data) == expected


def png(width: int, height: int, *chunks: tuple[bytes, bytes], rows: bytes = bytes(1000)) -> bytes:
    """Return a PNG that claims these sides, with chunks before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def patched(data: bytes, at: int, form: str, *values: int) -> bytes:
    return data[:at] + struct.pack(form, *values) + data[at + struct.calcsize(form) :]


def moving_webp(width: int, height: int) -> bytes:
    """Return a moving WebP of these sides with one small frame."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content

    def three(*values: int) -> bytes:
        return b"".join(struct.pack("<I", value)[:3] for value in values)

    frame = three(0, 0, 15, 15, 0) + b"\0" + coded(Image.new("RGB", (16, 16)), "WEBP", lossless=True)[12:]
    content = chunk(b"VP8X", b"\2\0\0\0" + three(width - 1, height - 1)) + chunk(b"ANIM", bytes(6))
    return chunk(b"RIFF", b"WEBP" + content + chunk(b"ANMF", frame))


def test_bombs_cost_no_memory_at_the_limits_of_the_default_preset() -> None:
    images = load_params(ROOT / "presets" / "demo.yaml").download.images
    small = Image.new("RGB", (16, 16))
    gif, bmp, plain = coded(small, "GIF"), coded(small, "BMP"), coded(small)
    start = plain.index(b"\xff\xc0") + 5
    frame = gif.index(b",\0\0\0\0") + 5
    bombs = [
        png(50_000, 50_000), png(13_000, 13_000), moving_webp(16_383, 16_383),
        patched(gif, 6, "<HH", 65_535, 65_535), patched(gif, 6, "<HH", 13_000, 13_000),
        patched(gif, frame, "<HH", 20_000, 20_000), patched(bmp, 18, "<ii", 30_000, 30_000),
        patched(plain, start, ">HH", 65_500, 65_500), patched(plain, start, ">HH", 13_000, 13_000),
    ]  # fmt: skip
    profile = (b"iCCP", b"x\0\0" + zlib.compress(bytes(100_000_000)))
    before_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert [reason(bomb, images) for bomb in bombs] == ["too_many_pixels"] * len(bombs)
    assert reason(png(64, 64, profile, rows=bytes(193 * 64)), images) == "broken_image"
    assert picture_of(png(64, 64, rows=bytes(300_000_000)), images).width == 64  # more pixels than its sides
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kilobytes < 64 * 1024


def test_a_bomb_in_text_chunks_is_bounded() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("note", "x" * 20_000_000, zip=True)
    data = coded(photo(), "PNG", pnginfo=text)
    assert len(data) < 100_000
    assert reason(data) == "broken_image"
    rows = bytes(193 * 64)
    packet = (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 20_000_000))
    assert reason(png(64, 64, packet, rows=rows)) == "broken_image"
    many = (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 1_000_000))
    assert picture_of(png(64, 64, many, rows=rows), IMAGES).width == 64
    assert reason(png(64, 64, *[many] * 100, rows=rows)) == "broken_image"


LAUGHS = b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>" + b"".join(
    b"<!ENTITY %c '%s'>" % (97 + n, b"&%c;" % (96 + n) * 10) for n in range(1, 20)
) + b"]><x:xmpmeta tiff:Orientation='&t;'/>"  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*EXIF data", "ignore:Tag data larger")
def test_metadata_that_is_huge_or_broken_spoils_no_pixels() -> None:
    turned = coded(photo(64, 32), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")
    assert opened(picture_of(turned, IMAGES)).size == (32, 64)
    exif = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    endless = b"MM\0*\0\0\0\x08\xff\xff\x01\x12\0\3\xff\xff\xff\xff\0\6\0\0\0\0\0\x08"
    cut = b"MM\0*\0\0\0\x08"
    for metadata in (exif + bytes(10_000_000), exif + b"\xff" * 100, endless, cut, b"no exif", b""):
        data = coded(photo(64, 32), "PNG")
        chunk = struct.pack(">I", len(metadata)) + b"eXIf" + metadata
        data = data[:33] + chunk + struct.pack(">I", zlib.crc32(b"eXIf" + metadata)) + data[33:]
        assert opened(picture_of(data, IMAGES)).size in ((64, 32), (32, 64))
    assert (
        reason(coded(photo(), "PNG", icc_profile=bytes(3_000_000))) == "broken_image"
    )  # bounded as texts are
    for profile in (b"no profile", bytes(128), b"\xff" * 4000, bytes(1_000_000)):
        for mode in ("RGB", "CMYK", "L"):
            data = coded(photo(64, 32).convert(mode), icc_profile=profile)
            assert near(opened(picture_of(data, IMAGES)).getpixel((60, 16)), (20, 20, 220), 45) or mode == "L"
        assert opened(picture_of(coded(photo(), "PNG", icc_profile=profile), IMAGES)).size == (64, 32)
    for packet in (LAUGHS, b"<x" * 25_000):
        data = coded(photo(64, 32), xmp=packet)
        assert opened(picture_of(data, IMAGES)).size == (64, 32)


def test_inks_of_adobe_in_other_coordinates_have_their_colour() -> None:
    """A file of YCCK: what is stored as C, M, Y is taken as brightness and two differences of colour."""
    red_as_inks = (255 - 179, 255 - 171, 255 - 1, 0)  # Y, Cb, Cr of no cyan, all magenta, all yellow
    data = bytearray(coded(Image.new("CMYK", (16, 16), red_as_inks), quality=95))
    data[data.index(b"Adobe") + 11] = 2  # the transform
    assert near(opened(picture_of(bytes(data), IMAGES)).getpixel((8, 8)), (255, 0, 0))


def test_a_jpeg_decoded_at_half_its_size_looks_as_the_whole_one_shrunk() -> None:
    draw = np.random.default_rng(7)
    coarse = Image.fromarray(draw.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    large = coarse.resize((640, 480), Image.Resampling.BICUBIC)
    quick = np.asarray(opened(picture_of(coded(large, quality=95), IMAGES.model_copy(update={"size": 256}))))
    slow = np.asarray(opened(picture_of(coded(large, "PNG"), IMAGES.model_copy(update={"size": 256}))))
    assert quick.shape == slow.shape == (192, 256, 3)
    assert np.abs(quick.astype(int) - slow).mean() < 2.0  # grey levels


def large(mode: str) -> Image.Image:
    coarse = Image.fromarray(np.random.default_rng(7).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    image = coarse.resize((4801, 3603), Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    image = image.convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "I;16"])
def test_a_large_picture_reduced_in_strips_looks_as_the_whole_one_shrunk(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = IMAGES.model_copy(update={"size": 256, "max_pixels": 64_000_000})
    data = coded(large(mode), "PNG", compress_level=1)
    strips = np.asarray(opened(picture_of(data, images)))
    monkeypatch.setattr(pictures, "LARGE_PIXELS", images.max_pixels)
    whole = np.asarray(opened(picture_of(data, images)))
    assert strips.shape == whole.shape == (192, 256, 3)
    assert not np.array_equal(strips, whole)
    assert np.abs(strips.astype(int) - whole).mean() < 1.5  # grey levels, those of the JPEG among them


def test_a_large_picture_costs_little_more_than_itself() -> None:
    images = load_params(ROOT / "presets" / "demo.yaml").download.images
    data = coded(Image.new("RGBA", (8000, 8000), (*RED, 128)), "PNG", compress_level=1)
    # in a process of its own, whose peak is its own
    program = (
        "import sys, resource; from components.download.pictures import picture_of; "
        "from components.settings.params import load_params; from pathlib import Path; "
        f"images = load_params(Path({str(ROOT / 'presets' / 'demo.yaml')!r})).download.images; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "picture_of(sys.stdin.buffer.read(), images); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=data, cwd=ROOT, capture_output=True, check=True
    )
    assert near(opened(picture_of(data, images)).getpixel((9, 9)), (237, 137, 137))
    assert int(done.stdout) < 330 * 1024  # it is 256 MB decoded, and was four times as much
