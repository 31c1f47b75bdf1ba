"""Use a released model: embed images and texts in one shared space."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from io import IOBase
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from components.ml.adapter import TextAdapter, load_adapter
from components.ml.precision import DTYPES
from components.ml.text.encoder import TextEncoder, encode, load_text_encoder
from components.ml.vision.clip import image_embeddings, load_clip, load_clip_tokenizer, text_embeddings
from components.ml.vision.pictures import Picture, rgb_of
from components.ml.vision.pixels import square_of
from components.ml.vision.towers import embedding_width, encode_images, image_size_of, load_vision_encoder

BATCH_IMAGES = 64
BATCH_TEXTS = 64  # for the text tower of a CLIP
BATCH_TOKENS = 4096  # for an LLM
PICTURES = "a path, the bytes of a file, a PIL image or a numpy array, or a list of such"
TEXTS = "a str or a list of str"
NO_LISTS = (Mapping, Set, IOBase, bytes, bytearray, memoryview)  # iterable, but no lists of items


class LlmRelease:
    """A vision tower, and a language model whose embeddings an adapter maps to the tower's space."""

    def __init__(
        self, vision_encoder: nn.Module, llm: TextEncoder, adapter: TextAdapter, scale: float
    ) -> None:
        self.vision_encoder, self.llm, self.text_adapter = vision_encoder, llm, adapter
        self.logit_scale = scale  # factor of cosines before a softmax

    @torch.inference_mode()
    def embed_images(self, images: Picture | Iterable[Picture]) -> Tensor:
        """Embed one picture or many, of any size: (N, D) float32 on the CPU, rows of length 1.

        Images are converted to upright RGB on white first, as for training (`components.ml.vision.pictures`).

        Args:
            images: A path (str or Path), the bytes of a file, a PIL image or a numpy array (H, W, 3) uint8,
                or any number of those: a list, a generator. No image gives (0, D).

        Raises:
            FileNotFoundError: a file is missing.
            TypeError: an item is no picture.
            ValueError: a picture cannot be decoded.
        """
        batches = squares(images, image_size_of(self.vision_encoder), BATCH_IMAGES)
        rows = [encode_images(self.vision_encoder, batch.to(self.llm.device)).cpu() for batch in batches]
        return _concatenated(rows, embedding_width(self.vision_encoder))

    @torch.inference_mode()
    def embed_texts(self, texts: str | Iterable[str]) -> Tensor:
        """Embed one text or many: (N, D) float32 on the CPU, rows of length 1; no text gives (0, D).

        Raises:
            TypeError: an item is no text.
            ValueError: a text has no token, or holds half of a surrogate pair.
        """
        vectors = encode(self.llm, texts_of(texts), BATCH_TOKENS, self.llm.precision)
        return self.text_adapter(vectors.to(self.llm.device)).float().cpu()


class ClipRelease:
    """A CLIP with its own text tower."""

    def __init__(self, model: Any, tokenizer: Any, scale: float) -> None:  # noqa: ANN401 - transformers' types
        self.model, self.tokenizer = model, tokenizer
        self.logit_scale = scale

    @torch.inference_mode()
    def embed_images(self, images: Picture | Iterable[Picture]) -> Tensor:
        """See `LlmRelease`."""
        batches = squares(images, image_size_of(self.model), BATCH_IMAGES)
        rows = [image_embeddings(self.model, batch.to(self.model.device)).cpu() for batch in batches]
        return _concatenated(rows, embedding_width(self.model))

    @torch.inference_mode()
    def embed_texts(self, texts: str | Iterable[str]) -> Tensor:
        """See `LlmRelease`; texts longer than the model's context are cut."""
        texts = texts_of(texts)
        batches = [texts[start : start + BATCH_TEXTS] for start in range(0, len(texts), BATCH_TEXTS)]
        rows = [text_embeddings(self.model, self.tokenizer, batch).cpu() for batch in batches]
        return _concatenated(rows, embedding_width(self.model))


Release = LlmRelease | ClipRelease


def load_release(
    folder: str | os.PathLike[str], device: str | torch.device = "cpu", llm_precision: str = "fp32"
) -> Release:
    """Load a release, from artifacts/register or from a version's folder in the registry.

    Args:
        folder: Folder of the release.
        device: `cpu` or `cuda`.
        llm_precision: Precision of the language model's weights: `fp32`, or `bf16` in half the memory, 15 GB
            instead of 30 for 8 billion weights. Tower and adapter stay float32. A CLIP ignores it.

    Example:
        >>> model = load_release("registry/models/llm2clip_demo/0123456789abcdef")  # doctest: +SKIP
        >>> scores = model.embed_images("circle.jpg") @ model.embed_texts("a red circle").T  # doctest: +SKIP

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: a part is missing or damaged, the parts do not fit each other, or precision or device does
            not exist.
    """
    if llm_precision not in DTYPES:
        raise ValueError(f"llm_precision is {llm_precision!r}; expected {' or '.join(DTYPES)}")
    device, folder = _usable_device(device), Path(folder)
    has_own_text, scale = _read_model_json(folder)
    if has_own_text:
        clip = folder / "clip"
        return ClipRelease(load_clip(clip).to(device), load_clip_tokenizer(clip), scale)
    try:
        llm = load_text_encoder(
            folder / "llm", **_read(folder / "encoding.json"), device=device, precision=llm_precision
        )
    except TypeError as error:
        raise ValueError(f"{folder / 'encoding.json'}: {error}; expected the file of a release") from None
    adapter = load_adapter(folder / "text_adapter").to(device)
    if adapter.config.input_dim != llm.dimension:
        raise ValueError(
            f"{folder}: the text adapter reads vectors of {adapter.config.input_dim}, the language model "
            f"writes {llm.dimension}; expected the language model that the adapter was trained with"
        )
    vision_encoder = load_vision_encoder(folder / "vision_encoder").to(device)
    return LlmRelease(vision_encoder, llm, adapter, scale)


def _usable_device(device: str | torch.device) -> str:
    """Return the name of a device.

    Raises:
        ValueError: torch or this machine has no such device.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"device is {str(device)!r}, which torch cannot use ({reason}); expected cpu, or cuda on a "
            "machine with a GPU and a torch built for it"
        ) from None
    return str(device)


def _read_model_json(folder: Path) -> tuple[bool, float]:
    """Return True if a release has its own text tower, and its logit scale."""
    if not folder.exists():
        raise FileNotFoundError(f"{folder} not found; expected the folder of a release")
    path = folder / "model.json"
    if folder.is_dir() and not path.exists():
        versions = sorted(path.parent.name for path in folder.glob("*/model.json"))
        hint = f": load {folder / versions[0]}, or another of {len(versions)} in it" if versions else ""
        raise ValueError(f"{folder} has no model.json; expected a release of this pipeline{hint}")
    tree = _read(path)
    try:
        return tree["text"] == "own", math.exp(tree["log_logit_scale"])
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}); expected the file of a release"
        ) from None


def _concatenated(rows: list[Tensor], width: int) -> Tensor:
    return torch.cat([torch.empty(0, width), *rows]).float()


def _read(path: Path) -> dict[str, Any]:
    try:
        tree: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); expected a release of this pipeline") from None
    return tree


def squares(pictures: Picture | Iterable[Picture], size: int, count: int) -> Iterator[Tensor]:
    """Yield pictures of any size as batches of at most `count` squares, uint8 (B, 3, size, size).

    Raises:
        FileNotFoundError: a file is missing.
        TypeError: an item is no picture; see `rgb_of`.
        ValueError: a picture cannot be decoded.
    """
    tensors = iter([_square(pictures, size)] if _is_picture(pictures) else _squares(pictures, size))
    while batch := list(islice(tensors, count)):
        yield torch.stack(batch)


def texts_of(texts: str | Iterable[str]) -> list[str]:
    """Return one text or many as a list.

    Raises:
        TypeError: the value or one of its items is no text.
        ValueError: a text holds half of a surrogate pair, which cannot be encoded.
    """
    if isinstance(texts, str):
        return texts_of([texts])
    _check_many(texts, "texts", TEXTS)
    items = list(texts)
    for index, text in enumerate(items):
        if not isinstance(text, str):
            raise TypeError(f"texts[{index}] is of type {type(text).__name__}; expected {TEXTS}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"texts[{index}] holds {text[error.start]!a}, half of a surrogate pair; expected whole "
                "characters: remove it"
            ) from None
    return items


def _is_picture(value: Any) -> bool:  # noqa: ANN401 - any value from a user
    if isinstance(value, np.ndarray):
        return value.ndim in (2, 3) and value.dtype.kind in "biuf"
    return isinstance(value, str | os.PathLike | bytes | bytearray | memoryview | Image.Image)


def _square(picture: Any, size: int) -> Tensor:  # noqa: ANN401
    return square_of(rgb_of(picture), size)


def _squares(pictures: Any, size: int) -> Iterator[Tensor]:  # noqa: ANN401
    _check_many(pictures, "pictures", PICTURES)
    for index, picture in enumerate(pictures):
        try:
            yield _square(picture, size)
        except (TypeError, ValueError, FileNotFoundError) as error:
            raise type(error)(f"pictures[{index}]: {error}") from None


def _check_many(value: Any, name: str, expected: str) -> None:  # noqa: ANN401
    if isinstance(value, NO_LISTS) or not isinstance(value, Iterable):
        raise TypeError(f"{name} are of type {type(value).__name__}; expected {expected}")
