from __future__ import annotations

import torch

from components.train_clip.mix import CaptionMix


def test_weights_are_renormalised_over_what_a_row_has() -> None:
    torch.manual_seed(0)
    mix = CaptionMix(torch.tensor([[1, 2, 1], [1, 0, 1], [0, 0, 3]]), torch.tensor([0.25, 0.25, 0.5]))
    drawn = torch.stack([mix.draw(torch.tensor([0, 1, 2])) for _ in range(4000)])
    shares = torch.stack([(drawn == number).float().mean(dim=0) for number in range(9)])
    expected = torch.tensor(
        [
            [0.25, 0.125, 0.125, 0.5, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 1 / 3, 2 / 3, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 1 / 3, 1 / 3, 1 / 3],
        ]
    )
    assert torch.allclose(shares.T, expected, atol=0.03)
    assert ((shares.T > 0) == (expected > 0)).all()


def test_a_column_of_weight_zero_is_never_drawn() -> None:
    mix = CaptionMix(torch.tensor([[1, 1, 1]]), torch.tensor([0.0, 1.0, 0.0]))
    assert mix.draw(torch.zeros(500, dtype=torch.long)).unique().tolist() == [1]
