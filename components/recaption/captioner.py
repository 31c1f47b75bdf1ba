"""The one interface to whatever writes captions: a model that looks at images, or a choice among columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from components.storage.shards import Pair
from components.storage.side_tables import Caption

ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff"
MIN_REPEATS = 3


@dataclass(frozen=True)
class Written:
    """What one captioner wrote for one shard; `rejected` counts by reason what came out as no caption."""

    captions: list[Caption]
    rejected: dict[str, int]


class Captioner(Protocol):
    """Something that writes captions."""

    name: str

    def columns(self) -> set[tuple[str, str]]:
        """Return the columns it writes, each with the split it writes it for."""

    def sources(self) -> set[tuple[str, str]]:
        """Return the columns of the source that it reads, each with the split it reads it for."""

    def identity(self) -> dict[str, Any]:
        """Return all that decides what it writes, as plain values."""

    def write(self, pairs: Sequence[Pair], captions: Sequence[Caption]) -> Iterable[Caption]:
        """Yield every caption asked for, with an empty text where it has nothing to say.

        Args:
            pairs: The rows of a shard; a model sees their pixels and nothing else.
            captions: The captions that the source gave the same rows.
        """


def accepted(captions: Iterable[Caption]) -> Written:
    """Keep what is a caption, and count what is none."""
    written = Written([], {})
    for caption in captions:
        if reason := _reason(caption.text):
            written.rejected[reason] = written.rejected.get(reason, 0) + 1
        else:
            written.captions.append(caption)
    return written


def _reason(text: str) -> str | None:
    words = text.translate(dict.fromkeys(map(ord, ZERO_WIDTH))).split()
    if not words:
        return "empty"
    tokens = words if len(words) > 1 else list(words[0])  # scripts without spaces
    return "repeated" if len(tokens) >= MIN_REPEATS and len(set(tokens)) == 1 else None
