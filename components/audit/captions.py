"""What the captions are like: how long, in which language, how often repeated, and shared by splits."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from components.storage.side_tables import CAPTIONS, read_table, text_key

# a run of letters and digits, or one character of a script that is written without spaces
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
DIGEST_CHARACTERS = 16  # of 64: 64 bits, enough for a share


def count_words(text: str) -> int:
    """Return the number of words; each Chinese or Japanese character counts as one."""
    return len(WORD.findall(text))


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
    _test: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, table: pa.Table) -> None:
        """Add one table of captions."""
        names = ("key", "split", "column", "language", "text")
        for key, split, column, language, text in zip(
            *(table.column(name).to_pylist() for name in names), strict=True
        ):
            self.split_of[key] = split
            self.words[key][f"{column} ({language})"].append(count_words(text))
            counts = {"train": self._train, "test": self._test}.get(split)
            if counts is not None:
                counts[column][text_key(text)[:DIGEST_CHARACTERS]] += 1

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

    def test_in_train_shares(self) -> dict[str, float]:
        """Return for each column of test the share of its captions that stand in train under any column."""
        known = {digest for counts in self._train.values() for digest in counts}
        return {
            column: sum(n for digest, n in counts.items() if digest in known) / counts.total()
            for column, counts in sorted(self._test.items())
        }


def read_all_captions(paths: Iterable[Path]) -> Captions:
    """Read caption tables into figures."""
    captions = Captions()
    for path in paths:
        captions.add(read_table(path, CAPTIONS))
    return captions
