"""The language models in use: what names their embeddings, and the model itself once something is missing."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from components.faults import DataFault
from components.ml.llm import TextEncoder, load_text_encoder
from components.settings.embed_captions import EmbedCaptions
from components.storage.atomic import read_json
from components.storage.layout import Layout
from components.storage.manifest import folder_key, read_manifest

STAGE_OF = {"base": "base_models", "tuned": "tune_llm"}


class Llm:
    """One LLM; both encode in the way that `artifacts/tune_llm/encoding.json` says.

    Attributes:
        about: Everything that decides an embedding, for the header of its shard.
    """

    def __init__(self, name: str, layout: Layout, params: EmbedCaptions, device: str) -> None:
        artifact = layout.artifact(STAGE_OF[name])
        self._folder: Path = artifact / "llm"
        self._device = device
        read_manifest(layout.artifact("tune_llm"), "encoding.json")
        self._encoding: dict[str, Any] = read_json(layout.artifact("tune_llm") / "encoding.json")
        self.about: dict[str, Any] = {
            **self._encoding,
            "llm": name,
            "llm_key": folder_key(artifact, "llm/"),
            "precision": params.precision,
            "dtype": "float16",
        }

    @cached_property
    def encoder(self) -> TextEncoder:
        """The model, loaded when first asked for.

        Raises:
            DataFault: it does not load or does not attend as its encoding says.
        """
        try:
            return load_text_encoder(self._folder, **self._encoding, device=self._device)
        except ValueError as error:
            raise DataFault(f"{error}; `dvc repro tune_llm` makes it again") from None
