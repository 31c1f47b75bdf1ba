"""Tokenise texts within a chat template, and record where the text itself starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.ml.text.plain_text import text_ids

PLACEHOLDER = "{text}"
TEXTS_AT_ONCE = 1000  # a tokenizer needs some kilobytes a text while it works
MOST_CHARACTERS_A_TOKEN = 64  # on average over a text; so that a text of a megabyte does not take seconds


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
    """Tokenise texts within a template; texts are cut so that all fits `max_tokens`.

    Header, prompt and text are tokenised separately, so that no merge across their borders moves the start of
    the text. Special tokens count in template and prompt, which are params; in a text they are plain text.

    Args:
        tokenizer: Tokenizer of the model; a bos that it adds before texts comes first.
        texts: Texts that are not empty after stripping.
        template: Contains `{text}`.
        prompt: Put before each text, after the header.
        max_tokens: Most tokens, template and prompt included.

    Raises:
        ValueError: template and prompt leave no room for a text, or a text has no token.
    """
    header, _, footer = template.partition(PLACEHOLDER)
    start = [*_bos(tokenizer), *_ids_with_special(tokenizer, header)]
    if len(start) > 1 and start[0] == start[1]:
        start = start[1:]  # the template contains the bos itself
    start += _ids_with_special(tokenizer, prompt)
    end = _ids_with_special(tokenizer, footer)
    room = max_tokens - len(start) - len(end)
    if room < 1:
        raise ValueError(
            f"template and query prompt take {len(start) + len(end)} of {max_tokens} tokens; expected room "
            "for a text: shorten them or raise encoding.max_tokens"
        )
    results: list[Tokens] = []
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        chunk = texts[first : first + TEXTS_AT_ONCE]
        max_characters = room * MOST_CHARACTERS_A_TOKEN
        rows = text_ids(tokenizer, [text[:max_characters] for text in chunk], room + 1)
        for ids, text in zip(rows, chunk, strict=True):
            text_tokens = ids[:room] or _unknown_id(tokenizer, text)
            tokens = (*start, *text_tokens, *end)
            is_cut = len(ids) > room or len(text) > max_characters
            results.append(Tokens(tokens, len(start), len(start) + len(text_tokens), is_cut))
    return results


def _bos(tokenizer: Any) -> list[int]:  # noqa: ANN401
    ids: list[int] = tokenizer("a")["input_ids"]
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []


def _ids_with_special(tokenizer: Any, text: str) -> list[int]:  # noqa: ANN401
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return ids


def _unknown_id(tokenizer: Any, text: str) -> list[int]:  # noqa: ANN401
    """Return the unknown token, for a text that is empty after the tokenizer's normaliser."""
    if tokenizer.unk_token_id is None:
        raise ValueError(f"caption {text!r:.60} has no token; expected at least one: remove such captions")
    return [tokenizer.unk_token_id]
