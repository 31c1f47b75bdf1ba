"""The interface of captioners: models that see images, or selections from existing columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from components.storage.shards import Pair
from components.storage.side_tables import Caption, Draft


@dataclass(frozen=True)
class Asked:
    """The kind and prompt that a caption was requested with.

    Attributes:
        kind: Short or dense; None for an existing column whose kind is not stated.
        prompt: The prompt of the model; None if it is unknown, for model-written captions that came with the
            data; empty if there was no prompt, so refusals and chat markers are not checked.
    """

    kind: str | None
    prompt: str | None

    @property
    def is_answer(self) -> bool:
        """Whether the caption answers a prompt."""
        return self.prompt != ""


@dataclass(frozen=True)
class Part:
    """What a captioner writes at once for a shard; each part is cached separately.

    Attributes:
        columns: Columns it writes, each with its split.
        identity: All inputs besides the rows, as plain values.
        made_by: The writer, one of `computed.MAKERS`; None: an endpoint, whose answers are kept for good.
        reads_captions: Whether it reads the captions of the source; otherwise it sees only pixels.
        retry_rounds: Maximum number of retries for missing captions; see `shard.may_pass`.
    """

    columns: frozenset[tuple[str, str]]
    identity: dict[str, Any]
    made_by: str | None
    reads_captions: bool = False
    retry_rounds: int = 0

    @property
    def splits(self) -> set[str]:
        """Splits of the columns."""
        return {split for _, split in self.columns}


class Asking(Protocol):
    """A source of captions that the filters check."""

    def asked(self, column: str, split: str) -> Asked:
        """Return the kind and prompt of a column of a split, for the gates."""


class Captioner(Asking, Protocol):
    """A writer of captions."""

    name: str

    def columns(self) -> set[tuple[str, str]]:
        """Return the columns it writes, each with its split."""

    def sources(self) -> set[tuple[str, str]]:
        """Return the source columns it reads, each with its split."""

    def parts(self) -> Sequence[Part]:
        """Return the parts that can be written separately; together they write all columns."""

    def write(self, part: Part, pairs: Sequence[Pair], captions: Sequence[Caption]) -> Iterable[Draft]:
        """Yield at least one draft for each pair and column; its text is empty if there is no caption.

        Args:
            part: One of `parts`.
            pairs: Rows of a shard in the part's splits.
            captions: Captions of the same rows from the source.
        """
