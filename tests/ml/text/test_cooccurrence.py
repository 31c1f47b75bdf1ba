"""Embeddings from co-occurrence, by a matrix that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from components.ml.text.cooccurrence import cooccurrence_embeddings


def test_the_root_of_the_information_by_hand() -> None:
    # pairs: 0 with 1 twice, 2 with 3 once, so ln(2 * 6 / (2 * 2)) and ln(1 * 6 / (1 * 1))
    torch.manual_seed(0)
    found = cooccurrence_embeddings([[0, 1], [1, 0, 0], [2, 3]], 5, 4, 0.5)
    assert float(found.std()) == pytest.approx(0.5)
    products = found @ found.T
    products = products / products[0, 0] * math.log(3)
    # the matrix's own root: of [[0, a], [a, 0]] that is the identity, times a
    expected = torch.diag(torch.tensor([math.log(3), math.log(3), math.log(6), math.log(6), 0.0]))
    torch.testing.assert_close(products, expected, atol=1e-4, rtol=1e-4)


def test_tokens_of_equal_company_are_alike() -> None:
    torch.manual_seed(0)
    found = cooccurrence_embeddings([[0, 2], [0, 3], [1, 2], [1, 3], [4, 5]], 6, 6, 1.0)
    unit = torch.nn.functional.normalize(found, dim=1)
    assert float(unit[0] @ unit[1]) == pytest.approx(1, abs=1e-4)
    assert abs(float(unit[0] @ unit[4])) < 1e-3


def test_what_nothing_can_be_told_from_is_refused() -> None:
    with pytest.raises(ValueError, match="no two tokens occur together"):
        cooccurrence_embeddings([[0], [1]], 3, 2, 1.0)
    with pytest.raises(ValueError, match="20000 or fewer"):
        cooccurrence_embeddings([[0, 1]], 50_000, 2, 1.0)
