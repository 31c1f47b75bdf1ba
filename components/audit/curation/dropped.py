"""Dropped images and their reasons; memory: 18 bytes per image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.audit.images import AuditImages

DIGITS = 6  # of a written figure; float32 holds no more
NONE = -1


@dataclass(frozen=True)
class Drop:
    """Why an image is dropped, with the deciding figure and the similar image, if there are any."""

    reason: str
    value: float | None
    like: str | None


class Dropped:
    """The images that are dropped.

    Args:
        images: All images of download.

    Attributes:
        rows: (N,) whether each image is dropped.
    """

    def __init__(self, images: AuditImages) -> None:
        self._images = images
        self.rows: NDArray[np.bool_] = np.zeros(len(images), bool)
        self._reasons: list[str] = []
        self._reason_of = np.zeros(len(images), np.uint8)
        self._values = np.full(len(images), np.nan)
        self._likes = np.full(len(images), NONE)

    def add(self, rows: ArrayLike, reason: str, values: ArrayLike = np.nan, likes: ArrayLike = NONE) -> None:
        """Drop rows.

        Args:
            rows: (n,) row numbers; none of them was dropped before.
            reason: The reason, in a word.
            values: (n,) the deciding figure, or NaN.
            likes: (n,) the row of the similar image, or `NONE`.
        """
        if reason not in self._reasons:
            self._reasons.append(reason)
        indices = np.asarray(rows, np.int64)
        self.rows[indices] = True
        self._reason_of[indices] = self._reasons.index(reason)
        self._values[indices], self._likes[indices] = values, likes

    def drop(self, row: int) -> Drop | None:
        """Return why a row is dropped; None if it is not."""
        if not self.rows[row]:
            return None
        value, like = float(self._values[row]), int(self._likes[row])
        return Drop(
            self._reasons[self._reason_of[row]],
            None if np.isnan(value) else round(value, DIGITS),
            None if like == NONE else self._images.key(like),
        )

    def first(self, reason: str) -> str:
        """Return for a message the first row that is dropped for a reason, and the image it is like."""
        row = int(np.flatnonzero(self.rows & (self._reason_of == self._reasons.index(reason)))[0])
        like = int(self._likes[row])
        return self._images.key(row) + ("" if like == NONE else f", like {self._images.key(like)}")

    def counts(self) -> dict[str, int]:
        """Return the number of dropped rows for each reason."""
        counts = np.bincount(self._reason_of[self.rows], minlength=len(self._reasons))
        return {reason: int(count) for reason, count in zip(self._reasons, counts, strict=True) if count}
