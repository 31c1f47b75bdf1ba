"""Per-row progress."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from components.storage.side_tables import Draft


class Counts(Protocol):
    """Something that counts rows: the progress of a stage, or of a process that tells it."""

    def advance(self, count: int = 1, /) -> None:
        """Count rows that are done."""


class RowProgress:
    """The rows that a part has something written for, told one by one."""

    def __init__(self, progress: Counts | None) -> None:
        self._progress, self._keys = progress, set[str]()

    def of(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """Yield drafts as they come."""
        for draft in drafts:
            if self._progress and draft.caption.key not in self._keys:
                self._keys.add(draft.caption.key)
                self._progress.advance()
            yield draft

    def end(self, rows: int) -> None:
        """Report all other rows."""
        if self._progress and (left := rows - len(self._keys)) > 0:
            self._progress.advance(left)
