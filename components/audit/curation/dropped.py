"""Dropped images and their reasons, 18 bytes an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.audit.images import AuditImages

DIGITS = 6  # of a figure as it is written; float32 holds no more
NONE = -1


@dataclass(frozen=True)
class Drop:
    """Why an image does not go on: the figure that decided and the image it is like, where there are such."""

    reason: str
    value: float | None
    like: str | None


class Dropped:
    """The rows of images that do not go on.

    Args:
        images: All that download kept.

    Attributes:
        rows: (N,) whether each is dropped.
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
            rows: (n,), none of which was dropped before.
            reason: Why.
            values: (n,) the figure that decided, or NaN.
            likes: (n,) the row that each is like, or `NONE`.
        """
        if reason not in self._reasons:
            self._reasons.append(reason)
        places = np.asarray(rows, np.int64)
        self.rows[places] = True
        self._reason_of[places] = self._reasons.index(reason)
        self._values[places], self._likes[places] = values, likes

    def drop(self, row: int) -> Drop | None:
        """Return why a row does not go on; None where it does."""
        if not self.rows[row]:
            return None
        value, like = float(self._values[row]), int(self._likes[row])
        return Drop(
            self._reasons[self._reason_of[row]],
            None if np.isnan(value) else round(value, DIGITS),
            None if like == NONE else self._images.key(like),
        )

    def first(self, reason: str) -> str:
        """Return for a message the first row that is dropped for a reason, and the one it is like."""
        row = int(np.flatnonzero(self.rows & (self._reason_of == self._reasons.index(reason)))[0])
        like = int(self._likes[row])
        return self._images.key(row) + ("" if like == NONE else f", like {self._images.key(like)}")

    def counts(self) -> dict[str, int]:
        """Return how many rows are dropped for each reason."""
        found = np.bincount(self._reason_of[self.rows], minlength=len(self._reasons))
        return {reason: int(count) for reason, count in zip(self._reasons, found, strict=True) if count}
