"""Apply all filters to drafts: divide them into captions and rejected drafts, and count both by column."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from components.recaption.captioners.captioner import Asking
from components.recaption.filters.gates import fault
from components.recaption.filters.languages import SCRIPTS
from components.running.rows import Rows
from components.settings.recaption import CaptionGates
from components.storage.side_tables import Caption, Draft, text_key

SHOWN_CHARACTERS = 80  # of a rejected caption in a message
Column = tuple[str, str]  # name of a column, and kind of its captions
HASH_DIGITS = 16  # 64 bits: among 60 million texts, a collision has a chance of about 1 in 10,000


class Filters:
    """Apply every filter to every draft.

    Args:
        gates: Limits of the filters, from params.
        repeated: Counts of repeated captions over all shards.
    """

    def __init__(self, gates: CaptionGates, repeated: RepeatedCaptions) -> None:
        self._gates, self._repeated = gates, repeated
        self._rows: dict[str, Rows] = defaultdict(Rows)
        self._unchecked: Counter[str] = Counter()

    def divide(self, captioner: Asking, drafts: Iterable[Draft]) -> tuple[list[Caption], list[Draft]]:
        """Return the accepted captions, and the rejected drafts with their reasons."""
        accepted, rejected = [], []
        for draft in drafts:
            caption = draft.caption
            if reason := self._reason(captioner, draft):
                first = f"{caption.text[:SHOWN_CHARACTERS]!r}, {caption.column} of {caption.key}"
                self._rows[caption.column].reject(reason, first=first)
                rejected.append(Draft(caption, reason))
            else:
                self._rows[caption.column].accept()
                self._unchecked[caption.language] += caption.language not in SCRIPTS
                accepted.append(caption)
        return accepted, rejected

    def _reason(self, captioner: Asking, draft: Draft) -> str | None:
        caption = draft.caption
        asked = captioner.asked(caption.column, caption.split)
        if reason := draft.reason or fault(caption.text, caption.language, asked, self._gates):
            return reason
        return "same_text" if self._repeated.is_over(captioner, draft) else None

    def rows(self) -> Rows:
        """Return the row counts over all columns."""
        rows = Rows()
        for column_rows in self._rows.values():
            rows.add(column_rows.figures(), column_rows.firsts)
        return rows

    def figures(self) -> dict[str, Any]:
        """Return row counts in total and by column, and the number of captions of an unchecked language."""
        return {
            **self.rows().figures(),
            "columns": {column: rows.figures() for column, rows in sorted(self._rows.items())},
            "language_unchecked": {code: count for code, count in sorted(self._unchecked.items()) if count},
        }


class RepeatedCaptions:
    """Count the images of each text over all shards, in eight bytes per caption of any length.

    Texts are identified by a hash of their content, so the order of shards does not matter.

    Args:
        max_images: Maximum number of images per text, by kind; kinds without a limit are not counted.
    """

    def __init__(self, max_images: dict[str, int]) -> None:
        self._max_images = max_images
        self._hashes: dict[Column, list[np.ndarray]] = defaultdict(list)
        self._repeated_hashes: dict[Column, frozenset[int]] | None = None

    def add(self, captioner: Asking, drafts: Iterable[Draft]) -> None:
        """Add the drafts of a captioner for a shard; two equal captions of one image count once."""
        by_column: dict[Column, set[tuple[str, int]]] = defaultdict(set)
        for draft in drafts:
            column = _column(captioner, draft)
            if column[1] in self._max_images and draft.reason is None:
                by_column[column].add((draft.caption.key, _hash(draft.caption.text)))
        for column, texts in by_column.items():
            hashes = (text_hash for _, text_hash in texts)
            self._hashes[column].append(np.fromiter(hashes, np.uint64, len(texts)))

    def is_over(self, captioner: Asking, draft: Draft) -> bool:
        """Say whether a text has more images than allowed; call it only after all shards were added."""
        if self._repeated_hashes is None:
            self._repeated_hashes = {column: self._over_limit(column) for column in list(self._hashes)}
        repeated = self._repeated_hashes.get(_column(captioner, draft), frozenset())
        return bool(repeated) and _hash(draft.caption.text) in repeated

    def _over_limit(self, column: Column) -> frozenset[int]:
        hashes, counts = np.unique(np.concatenate(self._hashes.pop(column)), return_counts=True)
        return frozenset(hashes[counts > self._max_images[column[1]]].tolist())


def _column(captioner: Asking, draft: Draft) -> Column:
    """Return a draft's column and kind: one column may have different kinds in different splits."""
    caption = draft.caption
    return caption.column, captioner.asked(caption.column, caption.split).kind or ""


def _hash(text: str) -> int:
    return int(text_key(text)[:HASH_DIGITS], 16)
