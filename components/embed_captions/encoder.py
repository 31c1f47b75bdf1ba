"""Interface of an encoder: an LLM, a sentence encoder, or a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Encoded:
    """Some texts embedded.

    Attributes:
        vectors: (N, d) float32 on the CPU, as the model gives them.
        tokens: Of each text, after cutting; None where nobody says.
        is_cut: Whether each text was cut to what the model reads; None where nobody says.
    """

    vectors: Tensor
    tokens: Sequence[int | None]
    is_cut: Sequence[bool | None]


class Encoder(Protocol):
    """One model.

    Attributes:
        name: Of its folder in the artifact.
        about: All that decides an embedding, for the header of its files.
        dimension: Numbers of an embedding.
        made_by: Which of `computed.MAKERS` embeds, on this machine; None: a server.
    """

    name: str
    about: dict[str, Any]
    made_by: str | None

    @property
    def dimension(self) -> int:
        """See above."""
        ...

    def encode(self, texts: list[str], progress: Progress) -> Encoded:
        """Embed texts; `progress` is told the number of texts of each finished batch.

        Raises:
            PipelineError: a model that does not load, a server that does not answer.
        """
        ...

    def encode_alone(self, texts: list[str]) -> Tensor:
        """Embed texts, each by itself: (N, d) float32."""
        ...

    def tokens_of(self, texts: list[str]) -> int | None:
        """Return how many tokens texts have; None where nobody says."""
        ...

    def model_bytes(self) -> int:
        """Return about how much memory the model takes."""
        ...

    def release(self) -> None:
        """Give back the memory of the model; it is loaded again when asked for."""
        ...
