"""Vision-language models of transformers: load a model, and turn images and prompts into its inputs.

Tested with tiny random-weight instances in Hugging Face layout of Florence-2, BLIP-2, LLaVA-1.5, LLaVA-NeXT,
Qwen2-VL, Qwen2.5-VL and Qwen3-VL. Other families work if their processor follows the same conventions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from components.ml.precision import DTYPES

PLACE_IMAGE_THEMSELVES = ("florence2", "blip-2")  # their processors put the image before the text
NAMED = 5
LOCAL = {"local_files_only": True, "trust_remote_code": False}
# Overrides of a model's generation config: params decide whether tokens are drawn, and the end token that
# BART's config forces as last token makes a cut caption look whole. They are set in the model's config, since
# `generate` fills values of None from there.
OURS = {
    **dict.fromkeys(("temperature", "top_p", "top_k", "early_stopping", "forced_eos_token_id")),
    "do_sample": False,
    "num_beams": 1,
}
LOADING_ERRORS = (OSError, KeyError, ImportError, TypeError, ValueError, RuntimeError, SafetensorError)


@dataclass(frozen=True)
class VisionLanguage:
    """A model in evaluation mode and the processor that makes its inputs."""

    model: Any
    processor: Any
    spares: SimpleQueue[Any] = field(default_factory=SimpleQueue)  # copies of the processor

    @contextmanager
    def of_ones_own(self) -> Iterator[VisionLanguage]:
        """Yield the model with a processor for this thread alone, because a call changes the tokenizer."""
        try:
            processor = self.spares.get_nowait()
        except Empty:
            processor = copy.deepcopy(self.processor)
        try:
            yield VisionLanguage(self.model, processor)
        finally:
            self.spares.put(processor)


def load_vision_language(folder: Path, precision: str = "fp32", device: str = "cpu") -> VisionLanguage:
    """Load a model and its processor from a folder: safetensors, no remote code, no torchvision.

    Images are always prepared by PIL: with torchvision's kernels captions would depend on the installation.

    Args:
        folder: Folder in Hugging Face layout.
        precision: Precision of the weights, `fp32` or `bf16`.
        device: Device of the model.

    Raises:
        ValueError: the folder holds no such model, or weights are missing or not finite.
    """
    processor = load_processor(folder)
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder, use_safetensors=True, dtype=DTYPES[precision], output_loading_info=True, **LOCAL
        )
    except LOADING_ERRORS as error:
        raise ValueError(
            f"{folder} holds no vision-language model that loads: {_first_line(error)}"
        ) from None
    problems = [str(key) for kind in ("missing_keys", "mismatched_keys") for key in sorted(report[kind])]
    problems += [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if problems:
        raise ValueError(
            f"{folder}: {len(problems)} weights are missing, of another shape or not finite "
            f"({', '.join(problems[:NAMED])}); expected all of a {model.config.model_type}"
        )
    model.generation_config.update(**OURS)
    return VisionLanguage(model.eval().to(device), processor)


class _WithoutVideo:
    """Processor mixin without the video processor, which needs torchvision and is not used for images."""

    def check_argument_for_proper_class(self, argument_name: str, argument: object) -> Any:  # noqa: ANN401
        """Accept None for the video processor."""
        if argument is None and argument_name == "video_processor":
            return None
        return super().check_argument_for_proper_class(argument_name, argument)  # type: ignore[misc]


def load_processor(folder: Path) -> Any:  # noqa: ANN401 - a processor of transformers
    """Load the processor of images and texts for the model of a folder.

    Raises:
        ValueError: the folder holds no vision-language model that transformers supports.
    """
    try:
        config = AutoConfig.from_pretrained(folder, **LOCAL)
        if type(config) not in PROCESSOR_MAPPING or type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise ValueError(f"a model of type {config.model_type} does not turn images and text into text")
        kind = PROCESSOR_MAPPING[type(config)]
        parts = {
            "image_processor": AutoImageProcessor.from_pretrained(folder, backend="pil", **LOCAL),
            "tokenizer": AutoTokenizer.from_pretrained(folder, **LOCAL),
            "video_processor": None,
        }
        settings, _ = kind.get_processor_dict(folder, local_files_only=True)
        without_video: Any = type(kind.__name__, (_WithoutVideo, kind), {"__init__": kind.__init__})
        return without_video.from_args_and_dict([parts[name] for name in kind.get_attributes()], settings)
    except LOADING_ERRORS as error:
        raise ValueError(f"{folder} holds no processor that loads: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def question_text(asked: VisionLanguage, prompt: str) -> str:
    """Return a prompt in the model's format, with the image token.

    That is its chat template if it has one; else the prompt, after the image token if the processor does not
    add it.

    Raises:
        ValueError: the chat template leaves the image out.
    """
    processor = asked.processor
    template = processor.chat_template or processor.tokenizer.chat_template
    token = str(getattr(processor.image_token, "content", processor.image_token))
    if template:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text: str = processor.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=template, add_generation_prompt=True
        )
        if token not in text:
            raise ValueError(
                f"the chat template gives {text!r:.80} without the image token {token}; expected it"
            )
        return text
    if asked.model.config.model_type in PLACE_IMAGE_THEMSELVES or token in prompt:
        return prompt
    return f"{token}\n{prompt}"


def model_inputs(asked: VisionLanguage, image: Image.Image, text: str) -> dict[str, Tensor]:
    """Return the model's inputs for one image and a `question_text`; rows can be concatenated to batches."""
    bos = asked.processor.tokenizer.bos_token
    options = {"add_special_tokens": False} if bos and text.startswith(bos) else {}
    return dict(asked.processor(images=[image], text=[text], return_tensors="pt", **options))
