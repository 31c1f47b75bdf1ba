"""Drop tokens of captions at random."""

from __future__ import annotations

from dataclasses import replace

from components.ml.text.encoder import draw_tokens
from components.ml.text.template import Tokens


def with_dropout(rows: list[Tokens], share: float) -> list[Tokens]:
    """Leave out tokens of texts, each with a chance of `share`, by torch's global generator.

    Word dropout of deep averaging networks (Iyyer et al. 2015, section 2.3). Template and prompt stay whole,
    and a text that would lose all its tokens.
    """
    if not share:
        return rows
    return [_shortened(row, left_out) for row, left_out in zip(rows, draw_tokens(rows, share), strict=True)]


def _shortened(row: Tokens, left_out: list[bool]) -> Tokens:
    text = row.ids[row.text_start : row.text_end]
    kept = [one for one, is_out in zip(text, left_out, strict=True) if not is_out] or text
    end = row.text_start + len(kept)
    return replace(row, ids=(*row.ids[: row.text_start], *kept, *row.ids[row.text_end :]), text_end=end)
