"""Tokenise special tokens in a text as plain text, so that `</s>` in a caption does not end it.

With `split_special_tokens` a tokenizer of transformers still returns some: tokens that are not flagged as
special, or words that its vocabulary holds as they are (Unigram, WordPiece, BPE that ignores merges). Such a
word gets a space inside it; no other text changes.
"""

from __future__ import annotations

from typing import Any

FRAMING = ("bos", "eos", "cls", "sep", "mask")


def text_ids(tokenizer: Any, texts: list[str], most: int | None) -> list[list[int]]:  # noqa: ANN401
    """Return the ids of texts, each cut to `most`, without the tokens that the tokenizer puts around a text.

    Calls the backend tokenizer if there is one: transformers' own call also builds unused lists, which take
    as long as the ids. Each call of transformers resets all settings that are changed here.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        ids: list[list[int]] = tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=most is not None,
            max_length=most,
        )["input_ids"]
        return ids
    _prepare(tokenizer, most)
    backend.encode_special_tokens = True
    rows = backend.encode_batch(texts, add_special_tokens=False)
    special = _special_ids(tokenizer)
    ids = [row.ids for row in rows]
    affected = [index for index, row_ids in enumerate(ids) if not special.isdisjoint(row_ids)]
    if changed := {index: _spelled(texts[index], rows[index], special) for index in affected}:
        respelled = backend.encode_batch([*changed.values()], add_special_tokens=False)
        for index, row in zip(changed, respelled, strict=True):
            ids[index] = row.ids
    backend.no_truncation()  # so that the tokenizer is saved unchanged
    return ids


def framed_ids(tokenizer: Any, texts: list[str], most: int | None) -> list[list[int]]:  # noqa: ANN401
    """Return the ids of texts with the tokens that the tokenizer puts around each, cut to `most` in all.

    Raises:
        ValueError: the tokens around a text leave no room for it, or differ between texts.
    """
    start, end = _frame(tokenizer)
    room = None if most is None else most - len(start) - len(end)
    if room is not None and room < 1:
        raise ValueError(f"the tokenizer puts {len(start) + len(end)} tokens around a text; expected {most}")
    return [[*start, *ids, *end] for ids in text_ids(tokenizer, texts, room)]


def spelled_out(tokenizer: Any, texts: list[str]) -> list[str]:  # noqa: ANN401
    """Return texts that the unchanged tokenizer turns into ids without any special token.

    Prompts may still hold some. A tokenizer without a backend is trusted.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return texts
    _prepare(tokenizer, None)
    backend.encode_special_tokens = tokenizer.split_special_tokens
    special = _special_ids(tokenizer)
    rows = backend.encode_batch(texts, add_special_tokens=False)
    return [
        text if special.isdisjoint(row.ids) else _spelled(text, row, special)
        for text, row in zip(texts, rows, strict=True)
    ]


def holds_special(tokenizer: Any, texts: list[str]) -> bool:  # noqa: ANN401
    """Return True if a text contains a special token, in upper or lower case."""
    words = {token.lower() for token in tokenizer.all_special_tokens}
    return any(word in text for text in map(str.lower, texts) for word in words)


def _prepare(tokenizer: Any, max_tokens: int | None) -> None:  # noqa: ANN401
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    if max_tokens is None:
        backend.no_truncation()
    else:
        backend.enable_truncation(max_tokens, direction=tokenizer.truncation_side)


def _special_ids(tokenizer: Any) -> frozenset[int]:  # noqa: ANN401
    """Return the ids of special tokens; one that is only for unknown words may occur in a text."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder().items()
    special = {token_id for token_id, token in added if token.special} | {*tokenizer.all_special_ids}
    framing = {getattr(tokenizer, f"{role}_token_id", None) for role in FRAMING}
    return frozenset(special - ({tokenizer.unk_token_id} - framing))


def _spelled(text: str, row: Any, special: frozenset[int]) -> str:  # noqa: ANN401 - an encoding
    """Return a text with a space after the first character of each special token of several characters."""
    for token_id, (start, end) in reversed([*zip(row.ids, row.offsets, strict=True)]):
        if token_id in special and end - start > 1:
            text = f"{text[: start + 1]} {text[start + 1 :]}"
    return text


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:  # noqa: ANN401
    """Return the tokens that the tokenizer puts before and after a text."""
    framed: list[int] = tokenizer("a")["input_ids"]
    text: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    for first in range(len(framed) - len(text) + 1):
        if text and framed[first : first + len(text)] == text:
            return framed[:first], framed[first + len(text) :]
    raise ValueError("the tokenizer puts no fixed tokens around a text; expected bos, eos or none")
