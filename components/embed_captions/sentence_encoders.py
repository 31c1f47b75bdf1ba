"""Encoder in sentence-transformers layout, fetched by base_models."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from components.embed_captions.encoder import Encoded, Progress
from components.errors import ConfigurationError, DataError
from components.running.embedding_headers import other_header
from components.settings.embed_captions import SentenceTransformersModel
from components.storage.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor

    from components.ml.text.sentence_encoder import SentenceEncoder

ALONE = 1  # batch_tokens: every text is a batch of its own


class OtherSentenceEncoder:
    """A sentence-transformers model; see `Encoder`. Loaded on first use."""

    made_by: str | None = "sentence_encoder"

    def __init__(self, section: SentenceTransformersModel, layout: Layout, device: str) -> None:
        self.name, self._section, self._device = section.name, section, device
        self._folder = layout.artifact("base_models") / "text_encoders" / section.model
        self.about = other_header(layout, section, verify=True)

    @cached_property
    def _encoder(self) -> SentenceEncoder:
        from components.ml.text.sentence_encoder import SentenceEncoder

        try:
            return SentenceEncoder(self._folder, self._device, self._section.precision)
        except ImportError:
            raise ConfigurationError(
                f"embed_captions.others {self.name} needs sentence-transformers, which is not installed; "
                "install it: `pip install -e .[sentence-transformers]`"
            ) from None
        except ValueError as error:
            raise DataError(f"{error}; `llm2clip forget base_models text_encoders` brings it again") from None

    @cached_property
    def dimension(self) -> int:
        """See `Encoder`."""
        return self._encoder.dimension

    def encode(self, texts: list[str], progress: Progress) -> Encoded:
        """See `Encoder`."""
        vectors = self._encoder.encode(texts, self._section.batch_tokens, progress)
        return Encoded(vectors, *self._encoder.lengths(texts)) if texts else Encoded(vectors, [], [])

    def encode_alone(self, texts: list[str]) -> Tensor:
        """See `Encoder`."""
        return self._encoder.encode(texts, ALONE, lambda _: None)

    def tokens_of(self, texts: list[str]) -> int:
        """See `Encoder`."""
        return sum(self._encoder.lengths(texts)[0])

    def model_bytes(self) -> int:
        """See `Encoder`."""
        return sum(path.stat().st_size for path in self._folder.rglob("*.safetensors"))

    def release(self) -> None:
        """See `Encoder`."""
        self.__dict__.pop("_encoder", None)
