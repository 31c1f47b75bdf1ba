"""Drafts divided into captions and rejected ones, and the count of both by column."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from components.recaption.captioners.captioner import Asking
from components.recaption.filters.gates import fault
from components.recaption.filters.languages import SCRIPTS
from components.recaption.filters.repeated_captions import RepeatedCaptions
from components.running.rows import Rows
from components.settings.recaption import CaptionGates
from components.storage.side_tables import Caption, Draft

SHOWN_CHARACTERS = 80  # of a rejected caption in a message


class Filters:
    """Applies every gate to every draft.

    Args:
        gates: From params.
        crowd: What all shards hold.
    """

    def __init__(self, gates: CaptionGates, crowd: RepeatedCaptions) -> None:
        self._gates, self._crowd = gates, crowd
        self._rows: dict[str, Rows] = defaultdict(Rows)
        self._unchecked: Counter[str] = Counter()

    def divide(self, captioner: Asking, drafts: Iterable[Draft]) -> tuple[list[Caption], list[Draft]]:
        """Return what is a caption, and with its reason what is none."""
        good, bad = [], []
        for draft in drafts:
            caption = draft.caption
            if reason := self._reason(captioner, draft):
                first = f"{caption.text[:SHOWN_CHARACTERS]!r}, {caption.column} of {caption.key}"
                self._rows[caption.column].reject(reason, first=first)
                bad.append(Draft(caption, reason))
            else:
                self._rows[caption.column].accept()
                self._unchecked[caption.language] += caption.language not in SCRIPTS
                good.append(caption)
        return good, bad

    def _reason(self, captioner: Asking, draft: Draft) -> str | None:
        caption = draft.caption
        asked = captioner.asked(caption.column, caption.split)
        if reason := draft.reason or fault(caption.text, caption.language, asked, self._gates):
            return reason
        return "same_text" if self._crowd.is_over(captioner, draft) else None

    def rows(self) -> Rows:
        """Return the count over all columns."""
        rows = Rows()
        for own in self._rows.values():
            rows.add(own.figures(), own.firsts)
        return rows

    def figures(self) -> dict[str, Any]:
        """Return rows in all and by column, and captions of a language that no gate can check."""
        return {
            **self.rows().figures(),
            "columns": {column: own.figures() for column, own in sorted(self._rows.items())},
            "language_unchecked": {code: count for code, count in sorted(self._unchecked.items()) if count},
        }
