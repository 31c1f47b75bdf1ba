"""Captions short of some tokens, drawn anew at each step."""

from __future__ import annotations

from dataclasses import replace

import torch

from components.ml.template import Tokens


def with_dropout(rows: list[Tokens], share: float) -> list[Tokens]:
    """Leave out tokens of texts, each with a chance of `share`, by torch's global generator.

    Word dropout of deep averaging networks (Iyyer et al. 2015, section 2.3). Template and prompt stay whole,
    and a text that would lose all its tokens.
    """
    if not share:
        return rows
    lengths = [row.text_end - row.text_start for row in rows]
    stays = torch.rand(sum(lengths)) >= share
    return [_shortened(row, of_row.tolist()) for row, of_row in zip(rows, stays.split(lengths), strict=True)]


def _shortened(row: Tokens, stays: list[bool]) -> Tokens:
    text = row.ids[row.text_start : row.text_end]
    kept = [one for one, is_kept in zip(text, stays, strict=True) if is_kept] or text
    end = row.text_start + len(kept)
    return replace(row, ids=(*row.ids[: row.text_start], *kept, *row.ids[row.text_end :]), text_end=end)
