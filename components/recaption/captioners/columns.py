"""New caption columns made from existing ones, and the model-written columns of sources."""

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
        sources: Sources, from params.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._columns = caption_columns(sources)

    def asked(self, column: str, split: str) -> Asked:
        """See `Captioner`; the prompt is unknown if a model wrote the column."""
        info = self._columns.get(column)
        return Asked(info.kind, None) if info and info.by_model else Asked(None, "")

    def drafts(self, captions: Iterable[Caption]) -> list[Draft]:
        """Return as drafts the captions to check: those by a model; captions by people pass unchecked."""
        return [Draft(caption) for caption in captions if self.asked(caption.column, caption.split).is_answer]


class FromColumns:
    """Select some or all captions of a column, unchanged or joined to one text; see `TAKES`.

    Captions selected from a model-written column are filtered like that column.
    """

    def __init__(self, section: ColumnsCaptioner, sources: FromSources) -> None:
        self.name = section.name
        self._section, self._from_sources = section, sources
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
        return self._from_sources.asked(self._takes[column, split].source, split)

    def parts(self) -> list[Part]:
        """See `Captioner`."""
        return [Part(frozenset(self.columns()), self._section.model_dump(), "columns", reads_captions=True)]

    def write(self, part: Part, pairs: Sequence[Pair], captions: Sequence[Caption]) -> Iterator[Draft]:
        """See `Captioner`."""
        by_source: dict[tuple[str, str], list[Caption]] = defaultdict(list)
        for caption in sorted(captions, key=lambda caption: caption.number):
            by_source[caption.key, caption.column].append(caption)
        for pair in pairs:
            split = pair.metadata["split"]
            for take in self._section.columns:
                if split not in take.splits:
                    continue
                source_captions = by_source[pair.key, take.source]
                language = source_captions[0].language if source_captions else ""
                texts = TAKES[take.take](pair.key, [caption.text.strip() for caption in source_captions])
                for number, text in enumerate(texts or [""]):
                    yield Draft(Caption(pair.key, split, take.column, language, number, text, self.name))


def _all(_key: str, texts: list[str]) -> list[str]:
    return texts


def _first(_key: str, texts: list[str]) -> list[str]:
    return texts[:1]


def _one_by_key(key: str, texts: list[str]) -> list[str]:
    return [texts[_choice(key, len(texts))]] if texts else []


def _others_joined(key: str, texts: list[str]) -> list[str]:
    """Join all captions but the one that `_one_by_key` selects, so that the two columns share no caption."""
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
