"""Find captions repeated over too many images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from components.recaption.captioners.captioner import Asking
from components.storage.side_tables import Draft, text_key

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
