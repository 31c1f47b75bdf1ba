"""The one interface to whatever writes captions: a model that looks at images, or a choice among columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from components.recaption.gates import Asked
from components.storage.shards import Pair
from components.storage.side_tables import Caption, Draft


class Captioner(Protocol):
    """Something that writes captions."""

    name: str

    def columns(self) -> set[tuple[str, str]]:
        """Return the columns it writes, each with the split it writes it for."""

    def sources(self) -> set[tuple[str, str]]:
        """Return the columns of the source that it reads, each with the split it reads it for."""

    def asked(self, column: str) -> Asked:
        """Return what a column is asked for as, for the gates."""

    def identity(self) -> dict[str, Any]:
        """Return all that decides what it writes, as plain values."""

    def write(self, pairs: Sequence[Pair], captions: Sequence[Caption]) -> Iterable[Draft]:
        """Yield at least one draft for each pair and column; its text is empty where there is nothing to say.

        Args:
            pairs: The rows of a shard; a model sees their pixels and nothing else.
            captions: The captions that the source gave the same rows.
        """
