"""What the captions are like: how long, in which language, how often repeated, and shared by splits."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from components.storage.side_tables import CAPTIONS, read_table, text_key

# a run of letters and digits, or one character of a script that is written without spaces
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
DIGEST_CHARACTERS = 16  # of 64: 64 bits, enough for a share
SHOWN_CHARACTERS = 120  # of a caption beside a gate
Evaluated = tuple[int, str, str]  # digest, key, beginning of the text


def count_words(text: str) -> int:
    """Return the number of words; each Chinese or Japanese character counts as one."""
    return len(WORD.findall(text))


def normalised(text: str) -> str:
    """Return a text's words as they are compared between splits: NFKC, lower case, no punctuation.

    Example:
        >>> normalised("A  Red, red CIRCLE.")
        'a red red circle'
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(WORD.findall(plain)) or plain.strip()


@dataclass(frozen=True)
class Overlap:
    """Captions of one kind of an evaluation set that train has too; the share is 0..1."""

    share: float
    rows: int
    samples: list[dict[str, str]]


@dataclass
class Captions:
    """Figures of all captions seen so far; `words[key][kind]` has one number per caption of a row.

    A kind is a column with its language, e.g. `short (en)`.
    """

    words: dict[str, dict[str, list[int]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    split_of: dict[str, str] = field(default_factory=dict)
    _train: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    _train_texts: set[int] = field(default_factory=set)
    _evaluated: dict[tuple[str, str], list[Evaluated]] = field(default_factory=lambda: defaultdict(list))

    def add(self, table: pa.Table) -> None:
        """Add one table of captions."""
        names = ("key", "split", "column", "language", "text")
        for key, split, column, language, text in zip(
            *(table.column(name).to_pylist() for name in names), strict=True
        ):
            self.split_of[key] = split
            kind = f"{column} ({language})"
            self.words[key][kind].append(count_words(text))
            if split == "train":
                self._train[column][text_key(text)[:DIGEST_CHARACTERS]] += 1
                self._train_texts.add(_digest(text))
            else:
                self._evaluated[split, kind].append((_digest(text), key, text[:SHOWN_CHARACTERS]))

    def kinds(self) -> list[str]:
        """Return every column with its language."""
        return sorted({kind for kinds in self.words.values() for kind in kinds})

    def mean_words(self) -> dict[str, float]:
        """Return the mean length of a caption of each kind, in words."""
        sums, counts = Counter[str](), Counter[str]()
        for kinds in self.words.values():
            for kind, words in kinds.items():
                sums[kind] += sum(words)
                counts[kind] += len(words)
        return {kind: sums[kind] / counts[kind] for kind in sorted(counts)}

    def repeated_shares(self) -> dict[str, tuple[float, int]]:
        """Return for each column of train the share of captions whose text came before, and their number."""
        return {
            column: (1 - len(counts) / counts.total(), counts.total())
            for column, counts in sorted(self._train.items())
        }

    def overlaps(self) -> dict[tuple[str, str], Overlap]:
        """Return by split and kind which captions of validation and test stand in train, normalised."""
        found = {}
        for (split, kind), rows in sorted(self._evaluated.items()):
            shared = [
                {"key": key, "kind": kind, "text": text}
                for digest, key, text in rows
                if digest in self._train_texts
            ]
            found[split, kind] = Overlap(len(shared) / len(rows), len(rows), shared)
        return found


def _digest(text: str) -> int:
    return int(text_key(normalised(text))[:DIGEST_CHARACTERS], 16)


def read_all_captions(paths: Iterable[Path]) -> Captions:
    """Read caption tables into figures."""
    captions = Captions()
    for path in paths:
        captions.add(read_table(path, CAPTIONS))
    return captions
