from __future__ import annotations

import math

import pytest
import torch

from components.ml.tfidf import TfIdf, words


def test_words_of_any_language() -> None:
    assert words("A red Circle, und ein Straßenbär!") == ["a", "red", "circle", "und", "ein", "straßenbär"]
    assert words("两只狗 run2") == ["两", "只", "狗", "run2"]


def test_weights_by_hand() -> None:
    index = TfIdf(["red red circle", "red square"])
    common, rare = 1.0, math.log(3 / 2) + 1
    expected = torch.nn.functional.normalize(torch.tensor([rare, 2 * common, 0.0]), dim=0)
    assert torch.allclose(index.vectors(["red red circle"])[0], expected)


def test_unknown_words_leave_a_zero_row() -> None:
    assert TfIdf(["red"]).vectors(["blau"]).tolist() == [[0.0]]


def test_the_same_text_is_nearest() -> None:
    texts = ["two dogs run", "a cat sleeps", "two cats run"]
    index = TfIdf(texts)
    scores = index.vectors(texts) @ index.vectors(texts).T
    assert scores.argmax(dim=1).tolist() == [0, 1, 2]
    assert scores.diagonal().tolist() == pytest.approx([1.0, 1.0, 1.0])
