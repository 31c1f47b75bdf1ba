"""Interface of an encoder: an LLM, a sentence encoder, or a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Encoded:
    """Vectors of some texts.

    Attributes:
        vectors: (N, d) float32 on the CPU, as the model gives them.
        tokens: Number of tokens of each text after cutting; None where unknown.
        is_cut: Whether each text was cut to the model's limit; None where unknown.
    """

    vectors: Tensor
    tokens: Sequence[int | None]
    is_cut: Sequence[bool | None]


class Encoder(Protocol):
    """A model that embeds texts.

    Attributes:
        name: Of its folder in the artifact.
        about: Everything that decides an embedding, for the header of its files.
        dimension: Length of an embedding.
        made_by: Which of `computed.MAKERS` embeds on this machine; None for a server.
    """

    name: str
    about: dict[str, Any]
    made_by: str | None

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        ...

    def encode(self, texts: list[str], progress: Progress) -> Encoded:
        """Embed texts; `progress` is called with the number of texts of each finished batch.

        Raises:
            PipelineError: the model does not load, or the server does not answer.
        """
        ...

    def encode_alone(self, texts: list[str]) -> Tensor:
        """Embed texts, each by itself: (N, d) float32."""
        ...

    def tokens_of(self, texts: list[str]) -> int | None:
        """Return the number of tokens of all texts; None where unknown."""
        ...

    def model_bytes(self) -> int:
        """Return about how many bytes of memory the model takes."""
        ...

    def release(self) -> None:
        """Free the memory of the model; it is loaded again on the next use."""
        ...
