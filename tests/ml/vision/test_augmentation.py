from __future__ import annotations

import pytest
import torch
from torch import Tensor

from components.ml.vision.augmentation import augment


def _images(count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)


def test_switched_off_it_changes_and_draws_nothing() -> None:
    images, state = _images(), torch.get_rng_state()
    assert augment(images, 8, 1.0, flip=False, colour_jitter=0.0) is images
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_decides() -> None:
    def once(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return augment(_images(), 8, 0.5, flip=True, colour_jitter=0.4)

    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))
    assert once(1).dtype == torch.uint8 and once(1).shape == (6, 3, 8, 8)


def test_a_flip_mirrors_or_leaves_each_image() -> None:
    torch.manual_seed(0)
    images = _images(32)
    flipped = augment(images, 8, 1.0, flip=True, colour_jitter=0.0)
    same = (flipped == images).flatten(1).all(dim=1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(dim=1)
    assert (same ^ mirrored).all()
    assert 8 < int(same.sum()) < 24


def test_a_crop_shows_a_part_of_the_image() -> None:
    torch.manual_seed(0)
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).view(1, 1, 1, 32).expand(64, 3, 32, 32)
    crops = augment(ramp, 32, 0.25, flip=False, colour_jitter=0.0).float()
    spans = crops[:, 0, 0, -1] - crops[:, 0, 0, 0]
    assert (crops.diff(dim=-1) >= 0).all()
    assert spans.min() < 160 and spans.max() <= 248
    assert (crops.diff(dim=-2) == 0).all()


def test_a_crop_of_a_larger_image_keeps_its_detail() -> None:
    fine = torch.tensor([0, 0, 255, 255], dtype=torch.uint8).repeat(8).expand(64, 3, 32, 32)
    coarse = fine[..., ::2, ::2]  # the same picture at half the size, to the point
    crops = []
    for images in (fine, coarse):
        torch.manual_seed(0)
        crops.append(augment(images, 16, 0.25, flip=False, colour_jitter=0.0).float())
    assert crops[0].shape == crops[1].shape == (64, 3, 16, 16)
    assert crops[0].var() > 1.1 * crops[1].var()
    torch.manual_seed(0)
    halved = augment(torch.full((2, 3, 16, 16), 90, dtype=torch.uint8), 8, 1.0, flip=False, colour_jitter=0.0)
    assert halved.shape == (2, 3, 8, 8) and (halved == 90).all()


def test_images_that_are_much_larger_are_refused() -> None:
    with pytest.raises(ValueError, match="images of 17 pixels are more than 2 times 8"):
        augment(torch.zeros(1, 3, 17, 17, dtype=torch.uint8), 8, 1.0, flip=True, colour_jitter=0.0)


def test_jitter_keeps_grey_grey_and_zero_area_crops_never_happen() -> None:
    torch.manual_seed(0)
    grey = torch.full((16, 3, 4, 4), 100, dtype=torch.uint8)
    jittered = augment(grey, 4, 1.0, flip=False, colour_jitter=0.5)
    assert (jittered[:, :1] == jittered).all()
    assert len(jittered[:, 0, 0, 0].unique()) > 4
