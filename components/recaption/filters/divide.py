"""Drafts divided into captions and rejected ones, and the count of both by column."""

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


Column = tuple[str, str]  # its name, and the kind of its captions
HASH_DIGITS = 16  # 64 bits: two of 60 million texts share one with a chance of about 1 in 10,000


class RepeatedCaptions:
    """Counts the images of each text over all shards: eight bytes a caption, whatever its length.

    What a text is called is decided by its content, so the order of shards changes nothing.

    Args:
        max_images: Of one text, by kind; kinds without a limit are not counted.
    """

    def __init__(self, max_images: dict[str, int]) -> None:
        self._max_images = max_images
        self._seen: dict[Column, list[np.ndarray]] = defaultdict(list)
        self._over: dict[Column, frozenset[int]] | None = None

    def add(self, captioner: Asking, drafts: Iterable[Draft]) -> None:
        """Take in what a captioner wrote for a shard; two equal captions of one image count once."""
        by_column: dict[Column, set[tuple[str, int]]] = defaultdict(set)
        for draft in drafts:
            column = _column(captioner, draft)
            if column[1] in self._max_images and draft.reason is None:
                by_column[column].add((draft.caption.key, _hash(draft.caption.text)))
        for column, found in by_column.items():
            self._seen[column].append(np.fromiter((number for _, number in found), np.uint64, len(found)))

    def is_over(self, captioner: Asking, draft: Draft) -> bool:
        """Say whether a text has more images than allowed; only asked when all shards are in."""
        if self._over is None:
            self._over = {column: self._crowded(column) for column in list(self._seen)}
        over = self._over.get(_column(captioner, draft), frozenset())
        return bool(over) and _hash(draft.caption.text) in over

    def _crowded(self, column: Column) -> frozenset[int]:
        numbers, counts = np.unique(np.concatenate(self._seen.pop(column)), return_counts=True)
        return frozenset(numbers[counts > self._max_images[column[1]]].tolist())


def _column(captioner: Asking, draft: Draft) -> Column:
    """Return a draft's column and kind: what two splits of a column are taken from may be of two kinds."""
    caption = draft.caption
    return caption.column, captioner.asked(caption.column, caption.split).kind or ""


def _hash(text: str) -> int:
    return int(text_key(text)[:HASH_DIGITS], 16)
