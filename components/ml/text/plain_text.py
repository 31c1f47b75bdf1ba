"""Tokenise special tokens as plain text: `</s>` in a caption ends nothing.

A tokenizer of transformers that is told to split special tokens still gives some: one that is not flagged as
special, or a word that its vocabulary holds as it stands (Unigram, WordPiece, BPE that ignores merges). Such
a word is written with a space in it, and no other text changes.
"""

from __future__ import annotations

from typing import Any

FRAMING = ("bos", "eos", "cls", "sep", "mask")


def text_ids(tokenizer: Any, texts: list[str], most: int | None) -> list[list[int]]:  # noqa: ANN401
    """Return the ids of texts, each cut to `most`, without what the tokenizer puts around a text.

    The tokenizer below that of transformers is asked, where there is one: lists that nobody reads take as
    long to build as the ids. transformers sets all that is set here anew in each call of its own.
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
    marked = [number for number, of_text in enumerate(ids) if not special.isdisjoint(of_text)]
    if changed := {number: _spelled(texts[number], rows[number], special) for number in marked}:
        again = backend.encode_batch([*changed.values()], add_special_tokens=False)
        for number, row in zip(changed, again, strict=True):
            ids[number] = row.ids
    backend.no_truncation()  # who saves the tokenizer next saves it as it came
    return ids


def framed_ids(tokenizer: Any, texts: list[str], most: int | None) -> list[list[int]]:  # noqa: ANN401
    """Return the ids of texts with what the tokenizer puts around each, all cut to `most`.

    Raises:
        ValueError: what is put around a text leaves no room for one, or is not the same for each.
    """
    start, end = _frame(tokenizer)
    room = None if most is None else most - len(start) - len(end)
    if room is not None and room < 1:
        raise ValueError(f"the tokenizer puts {len(start) + len(end)} tokens around a text; expected {most}")
    return [[*start, *ids, *end] for ids in text_ids(tokenizer, texts, room)]


def spelled_out(tokenizer: Any, texts: list[str]) -> list[str]:  # noqa: ANN401
    """Return texts for somebody who tokenises them by `tokenizer` as it is: no special token comes out.

    Prompts may then still hold some. A tokenizer without a backend is trusted.
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
    """Say whether a text holds the words of a special token, in whichever case."""
    words = {token.lower() for token in tokenizer.all_special_tokens}
    return any(word in text for text in map(str.lower, texts) for word in words)


def _prepare(tokenizer: Any, most: int | None) -> None:  # noqa: ANN401
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    if most is None:
        backend.no_truncation()
    else:
        backend.enable_truncation(most, direction=tokenizer.truncation_side)


def _special_ids(tokenizer: Any) -> frozenset[int]:  # noqa: ANN401
    """Return the ids that mean something else than text; one for the unknown alone may stand in a text."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder().items()
    special = {number for number, token in added if token.special} | {*tokenizer.all_special_ids}
    framing = {getattr(tokenizer, f"{role}_token_id", None) for role in FRAMING}
    return frozenset(special - ({tokenizer.unk_token_id} - framing))


def _spelled(text: str, row: Any, special: frozenset[int]) -> str:  # noqa: ANN401 - an encoding
    """Return a text with a space behind the first character of each special token but single characters."""
    for number, (start, end) in reversed([*zip(row.ids, row.offsets, strict=True)]):
        if number in special and end - start > 1:
            text = f"{text[: start + 1]} {text[start + 1 :]}"
    return text


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:  # noqa: ANN401
    """Return the tokens before and after a text."""
    whole: list[int] = tokenizer("a")["input_ids"]
    text: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    for first in range(len(whole) - len(text) + 1):
        if text and whole[first : first + len(text)] == text:
            return whole[:first], whole[first + len(text) :]
    raise ValueError("the tokenizer puts no fixed tokens around a text; expected bos, eos or none")
