"""Run vision-language models of base_models with transformers, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from components.errors import ConfigurationError, DataError
from components.ml.captioning.generate import Batches, Question, answers
from components.ml.captioning.vlm import VisionLanguage, load_vision_language
from components.recaption.captioners.prompted import Order, Reply
from components.running.workers import usable_cores
from components.settings.environment import Environment
from components.settings.recaption import VisionLanguageCaptioner
from components.storage.manifest import folder_key

FOLDER = "vision_language"
THREADS = 8  # threads that prepare images; each has its own tokenizer


def model_folder(name: str, model: str, base_models: Path) -> Path:
    """Return the folder of a vision-language model of base_models.

    Raises:
        ConfigurationError: base_models has no such model.
    """
    folder = base_models / FOLDER / model
    if not folder.is_dir():
        names = sorted(path.name for path in (base_models / FOLDER).glob("*"))
        raise ConfigurationError(
            f"recaption.captioners {name} names model {model}, which base_models does not have; expected "
            f"one of {', '.join(names) or 'none'}; add it to base_models.vision_language"
        )
    return folder


class TransformersWriter:
    """Run a model by `AutoModelForImageTextToText`; equal orders in equal batches give equal replies.

    Args:
        section: Section of the captioner, from params.
        base_models: Folder of the artifact of base_models.
        env: Device and number of processes.

    Raises:
        ConfigurationError: base_models has no such model.
    """

    made_by: str | None = "vision_language"

    def __init__(self, section: VisionLanguageCaptioner, base_models: Path, env: Environment) -> None:
        self._section, self._env = section, env
        self._folder = model_folder(section.name, section.model, base_models)
        self._weights_key = folder_key(base_models, f"{FOLDER}/{section.model}/")

    def identity(self) -> dict[str, Any]:
        """See `Writer`."""
        return {"weights": self._weights_key}

    def replies(self, orders: Sequence[Order]) -> Iterator[tuple[int, Reply]]:
        """See `Writer`."""
        questions = (Question(order.jpeg, order.prompt, order.max_new_tokens, order.seed) for order in orders)
        section, threads = self._section, self._env.processes or usable_cores()
        batch = Batches(section.batch_tokens, min(threads, THREADS))
        try:
            for number, answer in answers(self._model, questions, batch, section.temperature):
                yield number, Reply(answer.text, "truncated" if answer.is_cut else None)
        except ValueError as error:
            raise DataError(f"recaption.captioners {section.name}: {error}") from None

    @cached_property
    def _model(self) -> VisionLanguage:
        return load_vision_language(self._folder, self._section.precision, self._env.device)
