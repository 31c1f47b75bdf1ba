"""The one interface to whatever writes captions: a model that looks at images, or a choice among columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from components.storage.shards import Pair
from components.storage.side_tables import Caption, Draft


@dataclass(frozen=True)
class Asked:
    """What a caption was asked for as.

    Attributes:
        kind: Short or dense; None of an existing column of which nobody says so.
        prompt: That a model was spoken to by; None: one that is not known here, of captions that came with
            the data. Empty: nobody was spoken to, so neither refusals nor marks of a chat are looked for.
    """

    kind: str | None
    prompt: str | None

    @property
    def is_answer(self) -> bool:
        """Whether somebody was spoken to."""
        return self.prompt != ""


@dataclass(frozen=True)
class Part:
    """What a captioner writes at once for a shard: a piece of its own, which no other part's change touches.

    Attributes:
        columns: What it writes, each column with the split it is written for.
        identity: All that decides what it writes besides the rows, as plain values.
        made_by: Which of `computed.MAKERS` writes it; None: an endpoint, whose answers are kept for good.
        reads_captions: Whether it reads the captions of the source; else it sees pixels and nothing else.
        retry_rounds: At most so often it is asked again for what did not come, see `passing`.
    """

    columns: frozenset[tuple[str, str]]
    identity: dict[str, Any]
    made_by: str | None
    reads_captions: bool = False
    retry_rounds: int = 0

    @property
    def splits(self) -> set[str]:
        """The splits it writes for."""
        return {split for _, split in self.columns}


class Asking(Protocol):
    """Whose captions are judged."""

    def asked(self, column: str, split: str) -> Asked:
        """Return what a column of a split is asked for as, for the gates."""


class Captioner(Asking, Protocol):
    """Something that writes captions."""

    name: str

    def columns(self) -> set[tuple[str, str]]:
        """Return the columns it writes, each with the split it writes it for."""

    def sources(self) -> set[tuple[str, str]]:
        """Return the columns of the source that it reads, each with the split it reads it for."""

    def parts(self) -> Sequence[Part]:
        """Return what can be written apart; together they write all columns."""

    def write(self, part: Part, pairs: Sequence[Pair], captions: Sequence[Caption]) -> Iterable[Draft]:
        """Yield at least one draft for each pair and column; its text is empty where there is nothing to say.

        Args:
            part: One of `parts`.
            pairs: Rows of a shard, of the part's splits.
            captions: The captions that the source gave the same rows.
        """
