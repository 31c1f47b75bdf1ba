"""Pixel mean and deviation of a vision tower, from preprocessor_config.json."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BYTE = 255.0
BICUBIC = 3  # PIL's number, as preprocessor_config.json writes it
CHANNELS = 3
TOLERANCE = 1e-4
PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of RGB in 0..1."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


# OpenAI's CLIP (Radford et al. 2021), and EVA-CLIP after it
CLIP = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SIGLIP = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # Zhai et al. 2023, their released configs


def normalised(images: Tensor, normalisation: Normalisation) -> Tensor:
    """Bring uint8 (B, 3, H, W) to mean 0 and deviation 1, float32 of the same shape."""
    mean = torch.tensor(normalisation.mean, device=images.device).view(1, 3, 1, 1)
    deviation = torch.tensor(normalisation.deviation, device=images.device).view(1, 3, 1, 1)
    return (images.float() / BYTE - mean) / deviation


def normalisation_of(config: Any) -> Normalisation:  # noqa: ANN401 - a vision config of transformers
    """Return the normalisation stored in a vision config by `set_normalisation`, else that of its family."""
    family = SIGLIP if "siglip" in config.model_type else CLIP
    mean, deviation = getattr(config, "image_mean", None), getattr(config, "image_std", None)
    return Normalisation(tuple(mean or family.mean), tuple(deviation or family.deviation))


def set_normalisation(config: Any, normalisation: Normalisation) -> None:  # noqa: ANN401
    """Store a normalisation in a vision config, saved with its tower, if it differs from the family's."""
    current = normalisation_of(config)
    if not _is_near(normalisation.mean, current.mean):
        config.image_mean = list(normalisation.mean)
    if not _is_near(normalisation.deviation, current.deviation):
        config.image_std = list(normalisation.deviation)


def read_preprocessor(folder: Path, otherwise: Normalisation) -> Normalisation:
    """Read preprocessor_config.json of a model.

    Args:
        folder: Folder of the model; the file may be absent.
        otherwise: Default for absent values.

    Raises:
        ValueError: the file asks for unsupported steps, or its numbers are invalid.
    """
    path = folder / PREPROCESSOR
    if not path.is_file():
        return otherwise
    tree = json.loads(path.read_text("utf-8"))
    for step in ("do_rescale", "do_normalize"):
        if not tree.get(step, True):
            raise ValueError(f"{path} has {step} false; expected a model that takes normalised pixels")
    factor = tree.get("rescale_factor", 1 / BYTE)
    if not math.isclose(factor, 1 / BYTE, rel_tol=TOLERANCE):
        raise ValueError(f"{path} has rescale_factor {factor}; expected 1/255: pixels of 0 to 1")
    mean = _three_numbers(tree.get("image_mean", otherwise.mean), path, "image_mean")
    deviation = _three_numbers(tree.get("image_std", otherwise.deviation), path, "image_std")
    if min(deviation) <= 0:
        raise ValueError(f"{path} has image_std {list(deviation)}; expected numbers above 0")
    return Normalisation(mean, deviation)


def write_preprocessor(folder: Path, config: Any) -> None:  # noqa: ANN401 - a vision config of transformers
    """Write preprocessor_config.json: the steps of `pixels.decode_image` and `normalised`, as on the hub."""
    size, normalisation = config.image_size, normalisation_of(config)
    tree = {
        "crop_size": {"height": size, "width": size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(normalisation.mean),
        "image_processor_type": "CLIPImageProcessor",
        "image_std": list(normalisation.deviation),
        "resample": BICUBIC,
        "rescale_factor": 1 / BYTE,
        "size": {"shortest_edge": size},
    }
    (folder / PREPROCESSOR).write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n")


def _three_numbers(value: Any, path: Path, key: str) -> tuple[float, ...]:  # noqa: ANN401 - any JSON value
    numbers = value if isinstance(value, list | tuple) else []
    if len(numbers) != CHANNELS or not all(
        isinstance(number, int | float) and math.isfinite(number) for number in numbers
    ):
        raise ValueError(f"{path} has {key} {value}; expected one number each for red, green and blue")
    return tuple(float(number) for number in numbers)


def _is_near(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return all(abs(a - b) <= TOLERANCE for a, b in zip(first, second, strict=True))
