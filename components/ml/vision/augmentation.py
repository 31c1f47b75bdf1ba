"""Random augmentation of batches of uint8 images: crop, flip and colour jitter."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_LOG_ASPECT = math.log(4 / 3)  # of a crop, in both directions, as in RandomResizedCrop
MAX_SHRINK = 2  # a bilinear sample covers two pixels in each direction
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def augment(images: Tensor, size: int, min_crop: float, flip: bool, colour_jitter: float) -> Tensor:
    """Augment a batch; every draw comes from torch's global generator.

    Args:
        images: (B, 3, H, W) uint8.
        size: Pixels of a side of the result; at most `MAX_SHRINK` times smaller than the images.
        min_crop: A crop covers a share of the area drawn from [min_crop, 1], at an aspect ratio drawn from
            [3/4, 4/3], and is resized to the size (bilinear); 1 keeps the whole image.
        flip: Mirror each image with probability 1/2.
        colour_jitter: Brightness, contrast and saturation are multiplied by factors drawn from
            [1 - colour_jitter, 1 + colour_jitter]; 0 keeps colours.

    Returns:
        (B, 3, size, size) uint8.

    Raises:
        ValueError: the images are so much larger than `size` that resizing would alias.
    """
    is_of_size = images.shape[-2:] == (size, size)
    if max(images.shape[-2:]) > MAX_SHRINK * size:
        raise ValueError(f"images of {max(images.shape[-2:])} pixels are more than {MAX_SHRINK} times {size}")
    if min_crop == 1 and not flip and colour_jitter == 0 and is_of_size:
        return images
    pixels = images.float()
    if min_crop < 1 or flip or not is_of_size:
        pixels = _crop_and_flip(pixels, size, min_crop, flip)
    if colour_jitter:
        pixels = _jitter(pixels, colour_jitter)
    return pixels.round().clamp(0, 255).to(torch.uint8)


def _crop_and_flip(pixels: Tensor, size: int, min_crop: float, flip: bool) -> Tensor:
    count = len(pixels)
    width, height = torch.ones(count), torch.ones(count)  # shares of the sides
    if min_crop < 1:
        area = torch.empty(count).uniform_(min_crop, 1)
        aspect = torch.exp(torch.empty(count).uniform_(-MAX_LOG_ASPECT, MAX_LOG_ASPECT))
        width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x = (torch.rand(count) * 2 - 1) * (1 - width)  # centres; an image spans -1..1
    y = (torch.rand(count) * 2 - 1) * (1 - height)
    mirror = torch.where(torch.rand(count) < 0.5, -1.0, 1.0) if flip else torch.ones(count)
    zero = torch.zeros(count)
    affine = torch.stack(
        [torch.stack([width * mirror, zero, x], 1), torch.stack([zero, height, y], 1)], 1
    )  # (B, 2, 3)
    shape = [count, 3, size, size]
    grid = F.affine_grid(affine.to(pixels.device), shape, align_corners=False)  # (B, size, size, 2)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _jitter(pixels: Tensor, strength: float) -> Tensor:
    factors = torch.empty(3, len(pixels), 1, 1, 1).uniform_(1 - strength, 1 + strength).to(pixels.device)
    brightness, contrast, saturation = factors
    pixels = (pixels * brightness).clamp(0, 255)
    pixels = _blend(pixels, _grey(pixels).mean(dim=(1, 2, 3), keepdim=True), contrast)
    return _blend(pixels, _grey(pixels), saturation)


def _grey(pixels: Tensor) -> Tensor:
    return (pixels * torch.tensor(LUMA, device=pixels.device).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def _blend(pixels: Tensor, towards: Tensor, factor: Tensor) -> Tensor:
    return (towards + (pixels - towards) * factor).clamp(0, 255)
