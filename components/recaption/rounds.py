"""Finished pieces of drafts, one a round: what did not come is asked for again, all else stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.recaption.passing import may_pass, settled
from components.storage.atomic import content_key, remove
from components.storage.pieces import aside, is_intact, piece, set_aside
from components.storage.side_tables import Draft, read_drafts, write_drafts

DRAFTS = "drafts.parquet"


@dataclass(frozen=True)
class Rounds:
    """What one part of a captioner wrote for one shard.

    Attributes:
        store: Folder of the captioner's pieces.
        key: Hash of all that decides the first round.
        retry_rounds: At most so many more, each for the rows whose failure may have passed.
    """

    store: Path
    key: str
    retry_rounds: int

    def drafts(self, make: Callable[[list[Draft]], Sequence[Draft]]) -> list[Draft]:
        """Return the drafts of the last round; a round that is not there is made.

        Args:
            make: Returns all drafts; it is handed those that an earlier round settled.
        """
        drafts: list[Draft] = []
        for number in range(self.retry_rounds + 1):
            if number and not may_pass(drafts):
                break
            drafts = self._round(number, drafts, make)
        return drafts

    def set_aside(self) -> None:
        """Have the next run ask again for what the last round lacks, if it lacks anything."""
        folders = [self._folder(number) for number in range(self.retry_rounds + 1)]
        last = [folder for folder in folders if is_intact(folder)][-1]
        if may_pass(read_drafts(last / DRAFTS)):
            set_aside(last)

    def _round(
        self, number: int, before: list[Draft], make: Callable[[list[Draft]], Sequence[Draft]]
    ) -> list[Draft]:
        folder = self._folder(number)
        if is_intact(aside(folder)):
            before = read_drafts(aside(folder) / DRAFTS)
        piece(self.store, folder.name, lambda part: write_drafts(part / DRAFTS, make(settled(before))))
        remove(aside(folder))
        return read_drafts(folder / DRAFTS)

    def _folder(self, number: int) -> Path:
        return self.store / (content_key([self.key, number]) if number else self.key)
