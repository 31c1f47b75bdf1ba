"""New caption columns out of existing ones, and the columns of sources that a model wrote."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256

from components.recaption.captioners.captioner import Asked, Part
from components.settings.recaption import ColumnsCaptioner, Take
from components.settings.sources import Source, caption_columns
from components.storage.shards import Pair
from components.storage.side_tables import Caption, Draft


class FromSources:
    """The captions that came with the data.

    Args:
        sources: From params.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._columns = caption_columns(sources)

    def asked(self, column: str, split: str) -> Asked:
        """See `Captioner`: by a prompt that nobody here knows, where a model wrote the column."""
        written = self._columns.get(column)
        return Asked(written.kind, None) if written and written.by_model else Asked(None, "")

    def drafts(self, captions: Iterable[Caption]) -> list[Draft]:
        """Return what is to be judged of captions: what a model wrote; people's pass as they are."""
        return [Draft(one) for one in captions if self.asked(one.column, one.split).is_answer]


class FromColumns:
    """Takes captions of a column, some or all, as they are or joined to one text; see `TAKES`.

    What is taken of captions that a model wrote is judged as they are.
    """

    def __init__(self, section: ColumnsCaptioner, given: FromSources) -> None:
        self.name = section.name
        self._section, self._given = section, given
        self._takes: dict[tuple[str, str], Take] = {
            (take.column, split): take for take in section.columns for split in take.splits
        }

    def columns(self) -> set[tuple[str, str]]:
        """See `Captioner`."""
        return {(column, split) for column, splits in self._section.written() for split in splits}

    def sources(self) -> set[tuple[str, str]]:
        """See `Captioner`."""
        return {(take.source, split) for take in self._section.columns for split in take.splits}

    def asked(self, column: str, split: str) -> Asked:
        """See `Captioner`."""
        return self._given.asked(self._takes[column, split].source, split)

    def parts(self) -> list[Part]:
        """See `Captioner`."""
        return [Part(frozenset(self.columns()), self._section.model_dump(), "columns", reads_captions=True)]

    def write(self, part: Part, pairs: Sequence[Pair], captions: Sequence[Caption]) -> Iterator[Draft]:
        """See `Captioner`."""
        by_source: dict[tuple[str, str], list[Caption]] = defaultdict(list)
        for caption in sorted(captions, key=lambda one: one.number):
            by_source[caption.key, caption.column].append(caption)
        for pair in pairs:
            split = pair.metadata["split"]
            for take in self._section.columns:
                if split not in take.splits:
                    continue
                found = by_source[pair.key, take.source]
                language = found[0].language if found else ""
                texts = TAKES[take.take](pair.key, [one.text.strip() for one in found])
                for number, text in enumerate(texts or [""]):
                    yield Draft(Caption(pair.key, split, take.column, language, number, text, self.name))


def _all(_key: str, texts: list[str]) -> list[str]:
    return texts


def _first(_key: str, texts: list[str]) -> list[str]:
    return texts[:1]


def _one_by_key(key: str, texts: list[str]) -> list[str]:
    return [texts[_choice(key, len(texts))]] if texts else []


def _others_joined(key: str, texts: list[str]) -> list[str]:
    """Join all but the one that `_one_by_key` takes: the two columns share no caption."""
    choice = _choice(key, len(texts)) if texts else 0
    return [" ".join(text for number, text in enumerate(texts) if number != choice)]


def _rest_joined(_key: str, texts: list[str]) -> list[str]:
    return [" ".join(texts[1:])]


TAKES: dict[str, Callable[[str, list[str]], list[str]]] = {
    "all": _all,
    "first": _first,
    "one_by_key": _one_by_key,
    "others_joined": _others_joined,
    "rest_joined": _rest_joined,
}


def _choice(key: str, count: int) -> int:
    return int.from_bytes(sha256(key.encode()).digest()[:8], "big") % count
