"""Generate answers of a vision-language model to questions about images, in batches by a token budget."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from components.ml.captioning.vlm import VisionLanguage, model_inputs, question_text
from components.ml.prefetch import ahead
from components.ml.text.encoder import token_batches
from components.ml.vision.pictures import decode_rgb

OF_TEXT = {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"}
WINDOW_BATCHES = 4  # batches whose rows are sorted together by length
ROWS_AHEAD = 64  # rows prepared while the model generates


@dataclass(frozen=True)
class Question:
    """A request for one caption.

    Equal questions draw equal random numbers in any batch, and equal batches have equal answers. In another
    batch the last bits of the logits may differ, because matrix products sum in another order, and one of
    two nearly tied tokens may replace the other.
    """

    image: bytes  # of a JPEG, PNG or WebP file
    prompt: str
    max_new_tokens: int
    seed: int  # of the draws, if tokens are drawn


@dataclass(frozen=True)
class Answer:
    """Text of the model; `is_cut` if it had no end token within its tokens."""

    text: str
    is_cut: bool


@dataclass(frozen=True)
class Batches:
    """How questions are batched.

    Attributes:
        tokens: Most tokens of a batch, including image, answer and padding; a longer question is a batch of
            its own.
        threads: Number of images prepared at a time, also while the model generates.
    """

    tokens: int
    threads: int


def answers(
    asked: VisionLanguage, questions: Iterable[Question], batches: Batches, temperature: float
) -> Iterator[tuple[int, Answer]]:
    """Yield the index of each question and its answer, batch by batch.

    Args:
        asked: The model.
        questions: In any order; taken as they are needed.
        batches: Size of batches.
        temperature: 0 takes the likeliest token; above 0 tokens are drawn by the question's seed.

    Raises:
        ValueError: an image cannot be decoded.
    """
    for window in _windows(asked, questions, batches):
        for batch in token_batches([row.tokens for row in window], batches.tokens):
            rows = [window[index] for index in batch]
            yield from zip([row.number for row in rows], _write(asked, rows, temperature), strict=True)


@dataclass(frozen=True)
class _PromptRow:
    number: int
    question: Question
    inputs: dict[str, Tensor]

    @property
    def tokens(self) -> int:
        return self.inputs["input_ids"].shape[1] + self.question.max_new_tokens


def _row(vision_language: VisionLanguage, prompt: tuple[int, Question, str]) -> _PromptRow:
    index, question, text = prompt
    image = decode_rgb(question.image)
    with vision_language.of_ones_own() as thread_model:
        return _PromptRow(index, question, model_inputs(thread_model, image, text))


def _with_texts(
    vision_language: VisionLanguage, questions: Iterable[Question]
) -> Iterator[tuple[int, Question, str]]:
    """Yield each question with its index and its text, which is made once for each prompt."""
    texts: dict[str, str] = {}
    for index, question in enumerate(questions):
        if question.prompt not in texts:
            texts[question.prompt] = question_text(vision_language, question.prompt)
        yield index, question, texts[question.prompt]


def _windows(
    vision_language: VisionLanguage, questions: Iterable[Question], batches: Batches
) -> Iterator[list[_PromptRow]]:
    """Yield rows of a few batches at a time, so that the pixels of a whole shard are never in memory."""
    window: list[_PromptRow] = []
    tokens = 0
    for row in ahead(
        partial(_row, vision_language), _with_texts(vision_language, questions), batches.threads, ROWS_AHEAD
    ):
        window.append(row)
        tokens += row.tokens
        if tokens >= WINDOW_BATCHES * batches.tokens:
            yield window
            window, tokens = [], 0
    if window:
        yield window


def _batch(rows: list[dict[str, Tensor]], pad_id: int, *, pads_left: bool) -> dict[str, Tensor]:
    """Batch rows: pad texts on one side, and images of fewer parts with zeros at the end.

    A decoder continues at the right end of its text; an encoder may count positions from the left end.
    """
    batch = {}
    for name in rows[0]:
        tensors = [row[name] for row in rows]
        sizes = torch.tensor([list(tensor.shape[1:]) for tensor in tensors]).amax(0).tolist()
        fill = pad_id if name == "input_ids" else 0
        padded = []
        for tensor in tensors:
            missing = [size - length for size, length in zip(sizes, tensor.shape[1:], strict=True)]
            is_left = pads_left and name in OF_TEXT
            sides = [(count, 0) if is_left else (0, count) for count in reversed(missing)]
            padded.append(nn.functional.pad(tensor, [side for pair in sides for side in pair], value=fill))
        batch[name] = torch.cat(padded)
    return batch


@torch.inference_mode()
def _write(vision_language: VisionLanguage, rows: list[_PromptRow], temperature: float) -> list[Answer]:
    model, tokenizer = vision_language.model, vision_language.processor.tokenizer
    pad_id = next(
        token_id for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if token_id is not None
    )
    questions = [row.question for row in rows]
    batch = _batch([row.inputs for row in rows], pad_id, pads_left=not model.config.is_encoder_decoder)
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    if "pixel_values" in batch:
        batch["pixel_values"] = batch["pixel_values"].to(model.dtype)
    longest = max(question.max_new_tokens for question in questions)
    config = _generation(vision_language, longest, pad_id)
    draws = LogitsProcessorList()
    if temperature > 0:
        draws.append(SeededDraws([question.seed for question in questions], longest, temperature))
    ids = model.generate(**batch, generation_config=config, logits_processor=draws)
    first = 1 if model.config.is_encoder_decoder else batch["input_ids"].shape[1]
    ends = set(config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id])
    answers = []
    for question, row in zip(questions, ids[:, first:].tolist(), strict=True):
        end = next((index for index, token in enumerate(row) if token in ends), len(row))
        is_cut = end >= question.max_new_tokens
        text = tokenizer.decode(row[: min(end, question.max_new_tokens)], skip_special_tokens=True)
        answers.append(Answer(text, is_cut))
    return answers


def _generation(vision_language: VisionLanguage, max_new_tokens: int, pad_id: int) -> GenerationConfig:
    config = copy.deepcopy(vision_language.model.generation_config)
    if config.eos_token_id is None:
        config.eos_token_id = vision_language.processor.tokenizer.eos_token_id
    config.update(max_new_tokens=max_new_tokens, max_length=None, pad_token_id=pad_id)
    return config


class SeededDraws(LogitsProcessor):
    """Draws the next token of each row by the row's own random numbers.

    A row's number u in [0, 1) picks the token at which the cumulated softmax passes u. transformers' own
    sampling uses one generator for the whole batch, so the result of an image would depend on its neighbours.

    Args:
        seeds: One seed for each row.
        steps: Most tokens of a row.
        temperature: Divisor of the logits.
    """

    def __init__(self, seeds: list[int], steps: int, temperature: float) -> None:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._numbers = torch.stack(
            [torch.rand(steps, generator=generator, dtype=torch.float64) for generator in generators]
        )  # (B, steps)
        self._temperature = temperature
        self._step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (B, V): 0 for the drawn token of each row, minus infinity for all others."""
        cumulated = (scores.double() / self._temperature).softmax(-1).cumsum(-1)  # (B, V)
        numbers = self._numbers[:, self._step, None].to(scores.device) * cumulated[:, -1:]
        self._step += 1
        chosen = torch.searchsorted(cumulated, numbers, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)
