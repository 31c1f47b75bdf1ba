"""Texts as token ids within a chat template, with the place where the text itself starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.ml.text.plain_text import text_ids

PLACEHOLDER = "{text}"
TEXTS_AT_ONCE = 1000  # a tokenizer keeps some kilobytes a text while it works
MOST_CHARACTERS_A_TOKEN = 64  # on average over a text; keeps a megabyte from costing seconds


@dataclass(frozen=True)
class Tokens:
    """One text as token ids, between bos, template header and prompt, and the template's footer."""

    ids: tuple[int, ...]
    text_start: int
    text_end: int
    is_cut: bool = False


def wrap(
    tokenizer: Any,  # noqa: ANN401 - types of transformers are not ours
    texts: list[str],
    template: str,
    prompt: str,
    max_tokens: int,
) -> list[Tokens]:
    """Tokenise texts within a template, the texts cut so that all fits `max_tokens`.

    Header, prompt and text are tokenised apart, so that no merge across their borders moves the text's start.
    Special tokens count in template and prompt, which are params; in a text they are plain text.

    Args:
        tokenizer: Of the model; a bos that it puts before texts of its own accord comes first.
        texts: Not empty after stripping.
        template: Holds `{text}`.
        prompt: Put before each text, after the header.
        max_tokens: In all.

    Raises:
        ValueError: template and prompt leave no room for a text, or a text has no token.
    """
    header, _, footer = template.partition(PLACEHOLDER)
    start = [*_bos(tokenizer), *_trusted(tokenizer, header)]
    if len(start) > 1 and start[0] == start[1]:
        start = start[1:]  # the template names the bos itself
    start += _trusted(tokenizer, prompt)
    end = _trusted(tokenizer, footer)
    room = max_tokens - len(start) - len(end)
    if room < 1:
        raise ValueError(
            f"template and query prompt take {len(start) + len(end)} of {max_tokens} tokens: no room for "
            "a text; shorten them or raise encoding.max_tokens"
        )
    found: list[Tokens] = []
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        some = texts[first : first + TEXTS_AT_ONCE]
        most = room * MOST_CHARACTERS_A_TOKEN
        rows = text_ids(tokenizer, [text[:most] for text in some], room + 1)
        for ids, text in zip(rows, some, strict=True):
            own = ids[:room] or _unknown(tokenizer, text)
            whole = (*start, *own, *end)
            is_cut = len(ids) > room or len(text) > most
            found.append(Tokens(whole, len(start), len(start) + len(own), is_cut))
    return found


def _bos(tokenizer: Any) -> list[int]:  # noqa: ANN401
    ids: list[int] = tokenizer("a")["input_ids"]
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []


def _trusted(tokenizer: Any, text: str) -> list[int]:  # noqa: ANN401
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return ids


def _unknown(tokenizer: Any, text: str) -> list[int]:  # noqa: ANN401
    """Stand for a text that the tokenizer's normaliser leaves nothing of."""
    if tokenizer.unk_token_id is None:
        raise ValueError(f"caption {text!r:.60} has no token; reject such captions before they are encoded")
    return [tokenizer.unk_token_id]
