"""Resize pictures to square uint8 tensors, as CLIP's image processor does."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from components.ml.vision.pictures import Pixels, opened, upright_rgb


def decode_image(data: bytes, size: int) -> Tensor:
    """Decode one image.

    Args:
        data: A whole file, see `decode_rgb`.
        size: Pixels of a side of the result.

    Returns:
        uint8 (3, size, size), upright RGB on white.

    Raises:
        ValueError: see `decode_rgb`.
    """
    with opened(data) as image:
        return square_of(image, size)


def decode_images(files: Iterable[bytes], size: int) -> Tensor:
    """Decode several images into uint8 (B, 3, size, size); see `decode_image`."""
    squares = [decode_image(data, size) for data in files]
    return torch.stack(squares) if squares else torch.empty(0, 3, size, size, dtype=torch.uint8)


def square_of(image: Image.Image, size: int) -> Tensor:
    """Resize the shorter side to `size` (bicubic) and crop the middle: uint8 (3, size, size).

    The picture is converted to upright RGB on white first.
    """
    image = upright_rgb(image)
    short, long = sorted(image.size)
    other = int(size * long / short)
    width, height = (size, other) if image.width <= image.height else (other, size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))  # (H, W, 3)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def shrunk(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize uint8 (H, W, 3) to (height, width, 3): bicubic, with Pillow's anti-aliasing.

    Uses torch's uint8 kernel: a third of Pillow's time, and the same pixels up to one grey level.
    """
    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)  # (1, 3, H, W), channels last in memory
    small = functional.interpolate(image, (height, width), mode="bicubic", antialias=True)
    return small[0].permute(1, 2, 0).numpy()
