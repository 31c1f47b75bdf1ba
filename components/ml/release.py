"""A registered model, used: images and texts in, rows of one shared space out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from components.ml.adapter import TextAdapter, load_adapter
from components.ml.clip import image_embeddings, load_clip, load_clip_tokenizer, text_embeddings
from components.ml.images import square_of
from components.ml.llm import TextEncoder, encode, load_text_encoder
from components.ml.precision import DTYPES
from components.ml.vision import encode_images, image_size_of, load_vision_encoder

BATCH_IMAGES = 64
BATCH_TEXTS = 64  # of a CLIP's own text tower
BATCH_TOKENS = 4096  # of an LLM


class LlmRelease:
    """A vision tower, and a language model whose embeddings an adapter brings to the tower's space."""

    def __init__(
        self, vision_encoder: nn.Module, llm: TextEncoder, adapter: TextAdapter, scale: float
    ) -> None:
        self.vision_encoder, self.llm, self.text_adapter = vision_encoder, llm, adapter
        self.logit_scale = scale  # what cosines are multiplied by before a softmax

    @torch.inference_mode()
    def embed_images(self, images: list[Image.Image]) -> Tensor:
        """Embed pictures of any size: (N, D) float32 on the CPU, rows of length 1."""
        pixels = _squares(images, image_size_of(self.vision_encoder))
        parts = [
            encode_images(self.vision_encoder, part.to(self.llm.device))
            for part in pixels.split(BATCH_IMAGES)
        ]
        return torch.cat(parts).float().cpu()

    @torch.inference_mode()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """Embed texts: (N, D) float32 on the CPU, rows of length 1."""
        _refuse_none(texts)
        vectors = encode(self.llm, texts, BATCH_TOKENS, self.llm.precision)
        return self.text_adapter(vectors.to(self.llm.device)).float().cpu()


class ClipRelease:
    """A CLIP with its own text tower."""

    def __init__(self, model: Any, tokenizer: Any, scale: float) -> None:  # noqa: ANN401 - transformers' types
        self.model, self.tokenizer = model, tokenizer
        self.logit_scale = scale

    @torch.inference_mode()
    def embed_images(self, images: list[Image.Image]) -> Tensor:
        """See `LlmRelease`."""
        pixels = _squares(images, image_size_of(self.model))
        parts = [
            image_embeddings(self.model, part.to(self.model.device)) for part in pixels.split(BATCH_IMAGES)
        ]
        return torch.cat(parts).float().cpu()

    @torch.inference_mode()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """See `LlmRelease`; texts longer than the model's context are cut."""
        _refuse_none(texts)
        batches = [texts[start : start + BATCH_TEXTS] for start in range(0, len(texts), BATCH_TEXTS)]
        parts = [text_embeddings(self.model, self.tokenizer, batch) for batch in batches]
        return torch.cat(parts).float().cpu()


Release = LlmRelease | ClipRelease


def load_release(folder: Path, device: str = "cpu", llm_precision: str = "fp32") -> Release:
    """Load a release, from artifacts/register or from a version's folder in the registry.

    Args:
        folder: The release.
        device: Where its models work, `cpu` or `cuda`.
        llm_precision: In which the language model's weights are held, `fp32`, or `bf16` in half the memory:
            15 GB instead of 30 for 8 billion. Tower and adapter stay float32, and a CLIP has no such model.

    Example:
        >>> model = load_release(Path("registry/models/llm2clip_demo/0123456789abcdef"))  # doctest: +SKIP
        >>> scores = model.embed_images([picture]) @ model.embed_texts(["a red circle"]).T  # doctest: +SKIP

    Raises:
        ValueError: a part is missing or damaged, the parts do not fit each other, or there is no such
            precision.
    """
    if llm_precision not in DTYPES:
        raise ValueError(f"llm_precision is {llm_precision!r}; expected {' or '.join(DTYPES)}")
    about = _read(folder / "model.json")
    scale = math.exp(about["log_logit_scale"])
    if about["text"] == "own":
        clip = folder / "clip"
        return ClipRelease(load_clip(clip).to(device), load_clip_tokenizer(clip), scale)
    encoding = _read(folder / "encoding.json")
    llm = load_text_encoder(folder / "llm", **encoding, device=device, precision=llm_precision)
    adapter = load_adapter(folder / "text_adapter").to(device)
    if adapter.config.input_dim != llm.dimension:
        raise ValueError(
            f"{folder}: the text adapter reads vectors of {adapter.config.input_dim}, the language model "
            f"writes {llm.dimension}: expected the one it was trained with"
        )
    vision_encoder = load_vision_encoder(folder / "vision_encoder").to(device)
    return LlmRelease(vision_encoder, llm, adapter, scale)


def _squares(images: list[Image.Image], size: int) -> Tensor:
    _refuse_none(images)
    return torch.stack([square_of(image, size) for image in images])


def _refuse_none(items: list[Any]) -> None:
    if not items:
        raise ValueError("the list is empty; expected at least one image or text")


def _read(path: Path) -> dict[str, Any]:
    try:
        tree: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); expected a release of this pipeline") from None
    return tree
