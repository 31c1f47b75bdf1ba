from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from components.download.pictures import Picture, picture_of
from components.download.refusal import Refused
from components.settings.download import Images

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
    assert near(opened(picture_of(data, IMAGES)).getpixel((16, 16)), RED)


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
        (b"  <svg xmlns='http://www.w3.org/2000/svg'/>", "format_not_allowed"),
        (coded(photo(), "TIFF"), "format_not_allowed"),
        (coded(photo(), "ICO"), "format_not_allowed"),
        (b"8BPS\0\1" + bytes(40), "format_not_allowed"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "format_not_allowed"),
        (b"\0\0\0\x20ftypavif" + bytes(40), "format_not_allowed"),
        (b"\0\0\0\x20ftypheic" + bytes(40), "format_not_allowed"),
        (coded(photo(1, 1), "PNG"), "too_small"),
        (coded(photo(400, 20), "PNG"), "aspect"),
        (coded(Image.new("1", (1001, 1000)), "PNG"), "too_many_pixels"),
        (coded(Image.new("1", (14000, 13000)), "PNG"), "too_many_pixels"),
    ],
)  # fmt: skip
def test_what_is_not_taken_says_why(data: bytes, expected: str) -> None:
    assert reason(data) == expected


def test_a_bomb_in_text_chunks_is_bounded() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("note", "x" * 20_000_000, zip=True)
    data = coded(photo(), "PNG", pnginfo=text)
    assert len(data) < 100_000
    assert reason(data) == "broken_image"
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))))
    )
    assert reason(b"\x89PNG\r\n\x1a\n" + chunks) == "too_many_pixels"


def test_a_jpeg_decoded_at_half_its_size_looks_as_the_whole_one_shrunk() -> None:
    draw = np.random.default_rng(7)
    coarse = Image.fromarray(draw.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    large = coarse.resize((640, 480), Image.Resampling.BICUBIC)
    quick = np.asarray(opened(picture_of(coded(large, quality=95), IMAGES.model_copy(update={"size": 256}))))
    slow = np.asarray(opened(picture_of(coded(large, "PNG"), IMAGES.model_copy(update={"size": 256}))))
    assert quick.shape == slow.shape == (192, 256, 3)
    assert np.abs(quick.astype(int) - slow).mean() < 2.0  # grey levels
