from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig

from components.ml.vision.normalisation import CLIP, normalised, write_preprocessor
from components.ml.vision.pixels import decode_image, decode_images, shrunk, square_of


def photograph(width: int, height: int, mode: str = "RGB", form: str = "JPEG") -> bytes:
    noise = np.random.default_rng(width * height).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(noise).resize((width, height)).convert(mode).save(file, form)
    return file.getvalue()


@pytest.mark.parametrize(("width", "height"), [(64, 64), (97, 64), (64, 131), (333, 250), (40, 30)])
def test_decodes_as_the_processor_that_the_release_documents(tmp_path: Path, width: int, height: int) -> None:
    jpeg = photograph(width, height)
    write_preprocessor(tmp_path, CLIPVisionConfig(image_size=64))
    processor = CLIPImageProcessor.from_pretrained(tmp_path)
    expected = processor(Image.open(BytesIO(jpeg)), return_tensors="pt")["pixel_values"]
    assert torch.allclose(
        normalised(decode_image(jpeg, 64)[None], CLIP), torch.as_tensor(expected), atol=1e-5
    )


@pytest.mark.parametrize(("mode", "form"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "WEBP")])
def test_every_mode_becomes_rgb(mode: str, form: str) -> None:
    image = decode_image(photograph(80, 48, mode, form), 32)
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.uint8


def test_the_middle_is_kept() -> None:
    picture = Image.new("RGB", (30, 10), "red")
    picture.paste("blue", (10, 0, 20, 10))
    assert square_of(picture, 10)[2, 1:-1, 1:-1].min() > 200


def _bomb() -> bytes:
    """Return a small PNG that says it is 100,000 pixels wide and high."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


HOSTILE = {
    "empty": b"",
    "html": b"<html><body>404</body></html>",
    "cut": photograph(64, 64)[:900],
    "header only": photograph(64, 64)[:20],
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "tiff": photograph(64, 64, "RGB", "TIFF"),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "bomb": _bomb(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no readable image"):
        decode_image(HOSTILE[name], 64)


def test_no_image_makes_an_empty_batch() -> None:
    assert decode_images([], 16).shape == (0, 3, 16, 16)


def test_real_photographs_decode(shared: Path) -> None:
    files = sorted((shared / "data" / "flickr8k_fullres").rglob("*.jpg"))[:8]
    images = decode_images([file.read_bytes() for file in files], 72)
    assert images.shape == (len(files), 3, 72, 72)
    assert images.float().std() > 20


@pytest.mark.parametrize("size", [(640, 480), (301, 97), (64, 64)])
def test_shrunk_is_what_pillow_gives_but_for_rounding(size: tuple[int, int]) -> None:
    image = Image.open(BytesIO(photograph(*size))).convert("RGB")
    found = shrunk(np.array(image), size[1] // 2, size[0] // 3).astype(int)
    expected = np.asarray(image.resize((size[0] // 3, size[1] // 2), Image.Resampling.BICUBIC)).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 2
