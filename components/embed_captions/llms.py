"""Encoder that uses the base LLM or the tuned LLM."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from components.embed_captions.encoder import Encoded, Progress
from components.errors import DataError
from components.running.embedding_headers import llm_folder, llm_header
from components.running.model_weights import WEIGHT_BYTES, weights_in
from components.settings.embed_captions import EmbedCaptions
from components.storage.atomic import read_json
from components.storage.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor

    from components.ml.text.encoder import TextEncoder

ALONE = 1  # batch_tokens of the recheck: every text is a batch of its own, so nothing is padded


class Llm:
    """The base LLM or the tuned LLM; see `Encoder`. Loaded on first use."""

    made_by: str | None = "llm"

    def __init__(self, name: str, layout: Layout, params: EmbedCaptions, device: str) -> None:
        self.name, self._params, self._device = name, params, device
        self._folder = llm_folder(layout, name)
        self.about = llm_header(layout, name, params, verify=True)
        self._encoding: dict[str, Any] = read_json(layout.artifact("tune_llm") / "encoding.json")

    @cached_property
    def _encoder(self) -> TextEncoder:
        from components.ml.text.encoder import load_text_encoder

        try:
            return load_text_encoder(
                self._folder, **self._encoding, device=self._device, precision=self._params.precision
            )
        except ValueError as error:
            raise DataError(f"{error}; `dvc repro tune_llm` makes it again") from None

    @property
    def dimension(self) -> int:
        """See `Encoder`."""
        return int(read_json(self._folder / "config.json")["hidden_size"])

    def encode(self, texts: list[str], progress: Progress) -> Encoded:
        """See `Encoder`."""
        from components.ml.text.encoder import encode_tokens, tokenise

        try:
            rows = tokenise(self._encoder, texts)
        except ValueError as error:
            raise DataError(str(error)) from None
        params = self._params
        vectors = encode_tokens(self._encoder, rows, params.batch_tokens, params.precision, progress)
        return Encoded(vectors, [len(row.ids) for row in rows], [row.is_cut for row in rows])

    def encode_alone(self, texts: list[str]) -> Tensor:
        """See `Encoder`."""
        from components.ml.text.encoder import encode

        return encode(self._encoder, texts, ALONE, self._params.precision)

    def tokens_of(self, texts: list[str]) -> int:
        """See `Encoder`."""
        from transformers import AutoTokenizer

        from components.ml.text.template import wrap

        tokenizer = AutoTokenizer.from_pretrained(
            self._folder, local_files_only=True, trust_remote_code=False
        )
        rows = wrap(tokenizer, texts, self._encoding["template"], "", self._encoding["max_tokens"])
        return sum(len(row.ids) for row in rows)

    def model_bytes(self) -> int:
        """See `Encoder`."""
        return weights_in(self._folder) * WEIGHT_BYTES[self._params.precision]

    def release(self) -> None:
        """See `Encoder`."""
        self.__dict__.pop("_encoder", None)
