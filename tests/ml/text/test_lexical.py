from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from components.ml.metrics import distinct, true_ranks
from components.ml.text import lexical
from components.ml.text.lexical import word_counts, word_overlap, word_ranks, words
from components.ml.text.words import WORD


def test_words_of_any_language() -> None:
    assert words("A red Circle, und ein Straßenbär!") == ["a", "red", "circle", "und", "ein", "straßenbär"]
    assert words("两只狗 run2") == ["两", "只", "狗", "run2"]


def test_ranks_by_hand() -> None:
    """Both texts hold `red` once; only the rare word tells them apart, and twice the common one does not."""
    searched = ["red red circle", "red square"]
    common, rare = 1.0, math.log(3 / 2) + 1
    first = np.array([2 * common, rare, 0.0]) / math.hypot(2 * common, rare)
    second = np.array([common, 0.0, rare]) / math.hypot(common, rare)
    assert first[0] > second[0]  # so `red` alone finds the first text
    assert word_ranks(["red", "red"], searched, torch.tensor([0, 1])).tolist() == [0, 1]
    assert word_ranks(["red square blau"], searched, torch.tensor([1])).tolist() == [0]


def test_the_same_text_is_nearest() -> None:
    texts = ["two dogs run", "a cat sleeps", "two cats run"]
    assert word_ranks(texts, texts, torch.arange(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("chunk_scores", [1, 40, 1 << 20])
def test_ranks_are_those_of_vectors_by_the_formula(
    monkeypatch: pytest.MonkeyPatch, chunk_scores: int
) -> None:
    monkeypatch.setattr(lexical, "CHUNK_SCORES", chunk_scores)
    drawn = np.random.default_rng(3).choice(["red", "two", "dogs", "run", "cat", "a"], size=(2, 30, 4))
    first, second = ([" ".join(text) for text in texts] for texts in drawn)
    searched, groups = distinct(second)
    vocabulary = sorted({word for text in searched for word in words(text)})
    holders = [sum(word in words(text) for text in searched) for word in vocabulary]
    weights = torch.tensor([math.log((1 + len(searched)) / (1 + count)) + 1 for count in holders])

    def vectors(texts: list[str]) -> torch.Tensor:
        counts = torch.tensor([[float(words(text).count(word)) for word in vocabulary] for text in texts])
        return torch.nn.functional.normalize(counts * weights, dim=1)

    expected = true_ranks(vectors(first), vectors(searched), groups, torch.arange(len(searched)))
    assert word_ranks(first, searched, groups).tolist() == expected.tolist()


def test_without_a_word_every_other_text_stands_before() -> None:
    assert word_ranks(["?", "!"], ["...", "!!!"], torch.tensor([0, 1])).tolist() == [1, 1]
    assert word_ranks([], ["red"], torch.zeros(0, dtype=torch.long)).tolist() == []


def test_a_hundred_thousand_texts_are_not_a_dense_matrix() -> None:
    texts = [f"word{number} word{number + 1}" for number in range(100_000)]  # dense: 40 GB
    ranks = word_ranks(texts[:2] + ["word5"], texts, torch.tensor([0, 1, 7]))
    assert ranks.tolist() == [0, 0, 99_999]


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        ("a red dog", "a dog on a red sofa", 1.0),  # a dense caption that holds the short one
        ("a red dog", "A RED dog.", 1.0),
        ("a a a", "a dog", 0.5),  # the second has one `a`
        ("two dogs", "a cat", 0.0),
        ("两只狗", "一只狗", 2 / 3),
        ("🐕🐕", "a dog", None),
        ("", "", None),
    ],
)
def test_overlap_by_hand(first: str, second: str, overlap: float | None) -> None:
    counts = word_counts(first), word_counts(second)
    found = word_overlap(*counts)
    assert found == (pytest.approx(overlap) if overlap is not None else None)
    assert word_overlap(*reversed(counts)) == found


def test_words_of_scripts_with_and_without_spaces() -> None:
    assert WORD.findall("A dog's 2 bowls, über_all") == ["A", "dog", "s", "2", "bowls", "über_all"]
    assert WORD.findall("犬がいる dog3") == ["犬", "が", "い", "る", "dog3"]
    assert WORD.findall("豈\uf900狗a") == ["豈", "\uf900", "狗", "a"]
    assert WORD.findall("หมา") == ["ห", "ม", "า"]
    assert WORD.findall("!? …") == []
