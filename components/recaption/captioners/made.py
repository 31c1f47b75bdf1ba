"""Captions from the small captioner of base_models: short and dense, from pixels alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from components.errors import ConfigurationError, DataError
from components.ml.captioning.small import load_captioner, write_texts
from components.ml.vision.pixels import decode_images
from components.recaption.captioners.captioner import Asked, Part
from components.settings.recaption import ModelCaptioner
from components.storage.manifest import folder_key
from components.storage.shards import Pair
from components.storage.side_tables import Caption, Draft

LANGUAGE = "en"
FOLDER = "captioner"


class FromPixels:
    """Write the columns `<name>_short` and `<name>_dense`.

    Args:
        section: Section of the captioner, from params.
        base_models: Folder of the artifact of base_models.
        device: Device to run on.

    Raises:
        ConfigurationError: base_models made no captioner.
    """

    def __init__(self, section: ModelCaptioner, base_models: Path, device: str) -> None:
        self.name = section.name
        self._section, self._folder, self._device = section, base_models / FOLDER, device
        if not self._folder.is_dir():
            raise ConfigurationError(
                f"recaption.captioners {section.name} is of kind model, and base_models made no captioner; "
                "expected one; set base_models.captioner, or use kind columns"
            )
        self._weights_key = folder_key(base_models, f"{FOLDER}/")

    def columns(self) -> set[tuple[str, str]]:
        """See `Captioner`."""
        return {(column, split) for column, splits in self._section.written() for split in splits}

    def sources(self) -> set[tuple[str, str]]:
        """See `Captioner`."""
        return set()

    def asked(self, column: str, split: str) -> Asked:
        """See `Captioner`."""
        return Asked(kind=column.removeprefix(f"{self.name}_"), prompt="")

    def column(self, kind: str) -> str:
        """Return the column of a kind of caption."""
        return f"{self.name}_{kind}"

    def parts(self) -> list[Part]:
        """See `Captioner`."""
        identity = {"model": self._weights_key, **self._section.model_dump()}
        return [Part(frozenset(self.columns()), identity, "model")]

    def write(self, part: Part, pairs: Sequence[Pair], captions: Sequence[Caption]) -> Iterator[Draft]:
        """See `Captioner`; the captions of the source are not used."""
        for first in range(0, len(pairs), self._section.batch_size):
            batch = pairs[first : first + self._section.batch_size]
            for kind, texts in self._texts([pair.jpeg for pair in batch]).items():
                for pair, text in zip(batch, texts, strict=True):
                    split = pair.metadata["split"]
                    yield Draft(Caption(pair.key, split, self.column(kind), LANGUAGE, 0, text, self.name))

    def _texts(self, jpegs: list[bytes]) -> dict[str, list[str]]:
        captioner, tokenizer = self._loaded
        try:
            images = decode_images(jpegs, captioner.config.image_size).to(self._device)
        except ValueError as error:
            raise DataError(
                f"a shard of download holds {error}; run `llm2clip forget download shards`"
            ) from None
        return {kind: write_texts(captioner, tokenizer, images, kind) for kind in self._section.writes}

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        try:
            captioner, tokenizer = load_captioner(self._folder)
        except (ValueError, TypeError) as error:
            raise DataError(f"{error}; run `llm2clip forget base_models captioner`") from None
        return captioner.to(self._device), tokenizer
