from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from components.ml.metrics import distinct, true_ranks
from components.ml.text import lexical
from components.ml.text.lexical import TfIdf, word_ranks, words


def test_words_of_any_language() -> None:
    assert words("A red Circle, und ein Straßenbär!") == ["a", "red", "circle", "und", "ein", "straßenbär"]
    assert words("两只狗 run2") == ["两", "只", "狗", "run2"]


def test_weights_by_hand() -> None:
    index = TfIdf(["red red circle", "red square"])
    common, rare = 1.0, math.log(3 / 2) + 1
    expected = torch.nn.functional.normalize(torch.tensor([rare, 2 * common, 0.0]), dim=0)
    assert torch.allclose(index.vectors(["red red circle"]).to_dense()[0], expected)


def test_unknown_words_leave_a_zero_row() -> None:
    assert TfIdf(["red"]).vectors(["blau"]).to_dense().tolist() == [[0.0]]


def test_the_same_text_is_nearest() -> None:
    texts = ["two dogs run", "a cat sleeps", "two cats run"]
    index = TfIdf(texts)
    vectors = index.vectors(texts).to_dense()
    scores = vectors @ vectors.T
    assert scores.argmax(dim=1).tolist() == [0, 1, 2]
    assert scores.diagonal().tolist() == pytest.approx([1.0, 1.0, 1.0])


@pytest.mark.parametrize("chunk_scores", [1, 40, 1 << 20])
def test_ranks_are_those_of_dense_vectors(monkeypatch: pytest.MonkeyPatch, chunk_scores: int) -> None:
    monkeypatch.setattr(lexical, "CHUNK_SCORES", chunk_scores)
    drawn = np.random.default_rng(3).choice(["red", "two", "dogs", "run", "cat", "a"], size=(2, 30, 4))
    first, second = ([" ".join(text) for text in texts] for texts in drawn)
    searched, groups = distinct(second)
    index = TfIdf(searched)
    dense = [index.vectors(texts).to_dense() for texts in (first, searched)]
    expected = true_ranks(dense[0], dense[1], groups, torch.arange(len(searched)))
    assert word_ranks(first, searched, groups).tolist() == expected.tolist()


def test_without_a_word_every_other_text_stands_before() -> None:
    assert word_ranks(["?", "!"], ["...", "!!!"], torch.tensor([0, 1])).tolist() == [1, 1]
    assert word_ranks([], ["red"], torch.zeros(0, dtype=torch.long)).tolist() == []


def test_a_hundred_thousand_texts_are_not_a_dense_matrix() -> None:
    texts = [f"word{number} word{number + 1}" for number in range(100_000)]  # dense: 40 GB
    index = TfIdf(texts)
    assert index.vectors(texts).values().numel() == 200_000
    ranks = word_ranks(texts[:2] + ["word5"], texts, torch.tensor([0, 1, 7]))
    assert ranks.tolist() == [0, 0, 99_999]
