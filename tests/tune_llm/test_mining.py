"""Mined negatives: near, but no equal texts, and no nearer than the row's own answer allows."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from components.settings.tune_llm import MinedNegatives, PairKind, Phase
from components.tune_llm import mining
from components.tune_llm.caption_rows import CaptionRows
from components.tune_llm.mining import near_rows
from components.tune_llm.pairs import NOBODY, PairDraws

DEGREES = {"q0": 0, "a0": 10, "q1": 90, "a1": 95, "a2": 40, "q2": 30, "a3": 95.5, "q3": 180}
KIND = PairKind(first="ask", second="answer", negative=None, query_prompt="find: ", weight=1.0)
ROWS = CaptionRows.of(
    {
        "0": {"ask": ["q0"], "answer": ["a0"]},
        "1": {"ask": ["q1"], "answer": ["a1", "ignored"]},
        "2": {"ask": ["q2"], "answer": ["a2"]},
        "3": {"ask": ["q3"], "answer": ["a1"]},  # row 1's text
        "4": {"ask": ["none"]},  # is asked nothing
    }
)
PLACES = np.arange(4)


def vectors(texts: list[str], prompt: str) -> Tensor:
    assert prompt == ("find: " if texts[0].startswith("q") else "")
    angles = [math.radians(DEGREES[text]) for text in texts]
    return torch.tensor([[math.cos(angle), math.sin(angle)] for angle in angles]) * 3


def mined(share: float, kept: int = 3, pool_rows: int = 10) -> Tensor:
    settings = MinedNegatives(per_pair=1, kept=kept, pool_rows=pool_rows, max_share_of_positive=share)
    return near_rows(ROWS, PLACES, KIND, settings, vectors, seed=4)


def test_the_nearest_first_without_itself_and_equal_texts() -> None:
    # cosines of q0 to a0, a1, a2: 0.985, -0.087, 0.766
    near = mined(share=1.0)
    assert near[0].tolist()[0] == 2
    assert set(near[0].tolist()[1:]) == {1, 3}
    assert near[1].tolist() == [2, 0, NOBODY]  # row 3 answers with the same text
    # row 3's own answer is at 85 degrees; all others are further than its cosine allows
    assert 1 not in near[3].tolist()


def test_what_is_as_near_as_the_answer_may_be_as_true() -> None:
    # q0: a2 at 0.766 of 0.985 is 78 %
    assert 2 in mined(share=0.8)[0].tolist()
    assert 2 not in mined(share=0.75)[0].tolist()


def test_pools_hold_their_rows_apart_and_short_lines_are_filled() -> None:
    near = mined(share=1.0, kept=3, pool_rows=2)
    assert all(len([row for row in line if row != NOBODY]) <= 1 for line in near.tolist())
    assert mined(share=1.0, kept=3, pool_rows=1).unique().tolist() == [NOBODY]


def test_of_a_phase_the_latest_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counting(*_arguments: Any) -> mining.Vectors:
        asked.append(1)
        return vectors

    monkeypatch.setattr(mining, "shared_vectors", counting)
    settings = MinedNegatives(per_pair=1, kept=2, pool_rows=9, max_share_of_positive=1.0)
    phase = Phase(
        steps=2, batch_size=4, learning_rate=0.1, warmup_steps=0, pairs=[KIND], mined_negatives=settings
    )
    pairs = PairDraws(ROWS, phase, seed=1)
    encoder: Any = SimpleNamespace(model=torch.nn.Identity())
    found = [
        mining.mined(encoder, ROWS, pairs, "fp32", seed, tmp_path, {"data": data})[0][0].tolist()
        for seed, data in ((1, "old"), (1, "old"), (2, "old"), (1, "new"))
    ]
    assert found[0] == found[1] == near_rows(ROWS, PLACES, KIND, settings, vectors, seed=1).tolist()
    assert len(asked) == 3  # the second time they were there
    assert {path.name: len(list(path.iterdir())) for path in (tmp_path / "mined").iterdir()} == {
        "1": 1,
        "2": 1,
    }
