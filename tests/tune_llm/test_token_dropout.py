"""Token dropout touches the text alone, never all of it, and by its share."""

from __future__ import annotations

import pytest
import torch

from components.ml.text.template import Tokens
from components.tune_llm.token_dropout import with_dropout

BEFORE, AFTER = (1, 2), (3,)  # of a template
ROWS = [Tokens((*BEFORE, *range(10, 10 + length), *AFTER), 2, 2 + length) for length in (1, 7, 30, 400)]


def text_of(row: Tokens) -> tuple[int, ...]:
    return row.ids[row.text_start : row.text_end]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_template_and_order_stay(share: float) -> None:
    torch.manual_seed(1)
    for before, after in zip(ROWS, with_dropout(ROWS, share), strict=True):
        assert after.ids == (*BEFORE, *text_of(after), *AFTER)
        assert text_of(after) == tuple(sorted(text_of(after)))
        assert {*text_of(after)} <= {*text_of(before)}
        assert text_of(after)
    long = len(text_of(after))
    assert long == pytest.approx(400 * (1 - share), abs=4 * (400 * share * (1 - share)) ** 0.5)


def test_without_a_share_nothing_is_drawn() -> None:
    before = torch.get_rng_state()
    assert with_dropout(ROWS, 0.0) == ROWS
    assert torch.equal(torch.get_rng_state(), before)
