"""What is a caption and what is none: pure functions of a text, of what was asked for, and of params."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache
from operator import eq

from components.ml.text.words import UNSPACED
from components.recaption.captioners.captioner import Asked
from components.recaption.filters.chat_answers import is_of_chat, is_refusal, is_unfilled
from components.recaption.filters.languages import other_language
from components.settings.recaption import CaptionGates

MAX_PHRASE_WORDS = 40  # of a phrase said again and again
RUN_WORDS = 3
MIN_REPEATS = 3  # a caption of one word, so often, is none
SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", "।", "؟")
AFTER_SENTENCE_END = "\"'”’»)]"
WORD = re.compile(rf"[{UNSPACED}]|[^\W_]+(?:['’][^\W_]+)*")  # here `don't` is one, and `a_b` are two
CHAT_TOKENS = re.compile(r"<\|[a-z0-9_]+\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>")
# categories Cc and Cs without white space, and noncharacters
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def fault(text: str, language: str, asked: Asked, gates: CaptionGates) -> str | None:
    """Return why a text is no caption, in one word for the count; None where it is one.

    Args:
        text: What was written.
        language: That it should be in, ISO 639; one that `languages.SCRIPTS` lacks is not checked.
        asked: What for.
        gates: From params.
    """
    if len(text) > gates.max_characters:
        return "too_long"
    if CONTROL.search(text):
        return "control_characters"
    shown = _shown(text)
    if not shown:
        return "empty"
    words = [word.casefold() for word in WORD.findall(text)]
    reasons = {
        "refusal": asked.is_answer and is_refusal(text),
        "prompt_leak": bool(CHAT_TOKENS.search(text))
        or (asked.is_answer and leaks_prompt(text, asked.prompt or "", gates.min_leaked_words)),
        "empty": asked.is_answer and is_unfilled(shown),
        "repeated": is_repeated(words or text.split(), gates.max_repeats, gates.max_repeated_share),
        "truncated": asked.kind in gates.whole_sentences and not ends_sentence(shown),
        "wrong_language": other_language(text, language, gates.min_script_share) is True,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _shown(text: str) -> str:
    """Return what of a text is seen: no zero-width and direction marks, and no white space around it."""
    if text.isascii():
        return text.strip()
    unseen = {ord(one): None for one in set(text) if unicodedata.category(one) == "Cf"}
    return text.translate(unseen).strip()


def leaks_prompt(text: str, prompt: str, min_words: int) -> bool:
    """Say whether a text holds marks of a chat, or `min_words` words in a row of the prompt.

    A beginning is no leak: asked by "a photo of", some models write "a photo of a dog", others "a dog".

    Args:
        text: What was written.
        prompt: A shorter prompt leaks as a whole, from two words on; one that is not known, empty, never.
        min_words: See above.
    """
    if is_of_chat(text):
        return True
    words = [word.casefold() for word in WORD.findall(_without_beginning(text, prompt))]
    length, runs = _runs(prompt, min_words)
    return length > 1 and not runs.isdisjoint(_windows(words, length))


@cache
def _runs(prompt: str, min_words: int) -> tuple[int, frozenset[tuple[str, ...]]]:
    """Return how many words of a prompt in a row are a leak, and all such runs."""
    words = [word.casefold() for word in WORD.findall(prompt)]
    length = min(min_words, len(words))
    return length, frozenset(_windows(words, length))


def _windows(words: list[str], length: int) -> Iterator[tuple[str, ...]]:
    """Yield every run of so many words."""
    return zip(*(words[first:] for first in range(length)), strict=False)


def _without_beginning(text: str, prompt: str) -> str:
    """Return a text without the prompt that it goes on from: one that stops in the middle of a sentence."""
    beginning = prompt.strip()
    is_open = beginning[-1:].isalnum() and text[: len(beginning)].casefold() == beginning.casefold()
    rest = text[len(beginning) :]
    return rest if is_open and re.match(r"\s+\w", rest) else text


def is_repeated(words: list[str], max_repeats: int, max_repeated_share: float) -> bool:
    """Say whether a text goes round in circles.

    That is one word and nothing else, three times or more; a phrase more than `max_repeats` times in a row;
    or a share of runs of three words that stood in it before which is above `max_repeated_share`. Example:
    "a dog a dog a dog a dog" is two words four times in a row; of its six runs four stood in it before.
    """
    words = [word for word in words if not word.isdigit()] or words  # a list that is numbered
    if len(words) >= MIN_REPEATS and len(set(words)) == 1:
        return True
    # each word of such a phrase comes as often as the phrase
    frequent = sum(count for count in Counter(words).values() if count > max_repeats)
    for period in range(1, min(MAX_PHRASE_WORDS, frequent // (max_repeats + 1)) + 1):
        again = bytes(map(eq, words, words[period:]))  # 1 where a word equals the one a period earlier
        if b"\1" * (max_repeats * period) in again:
            return True
    runs = list(_windows(words, RUN_WORDS))
    return bool(runs) and 1 - len(set(runs)) / len(runs) > max_repeated_share


def ends_sentence(text: str) -> bool:
    """Say whether a text ends as a sentence does."""
    return text.rstrip(AFTER_SENTENCE_END).endswith(SENTENCE_ENDS)
