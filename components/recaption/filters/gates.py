"""Filters on one caption: refusals, prompt leaks, repetition, cut-off text, wrong language.

All are pure functions of the text, its prompt and kind, and params. Refusals and chat phrases around a
caption are searched only in texts of a chat model: people write "I'm sorry" on greeting cards.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache
from operator import eq

from components.ml.text.words import UNSPACED
from components.recaption.captioners.captioner import Asked
from components.recaption.filters.languages import other_language
from components.settings.recaption import CaptionGates

MAX_PHRASE_WORDS = 40  # longest phrase that is checked for repetition
RUN_WORDS = 3
MIN_REPEATS = 3  # a text of one word this many times is no caption
SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", "।", "؟")
AFTER_SENTENCE_END = "\"'”’»)]"
WORD = re.compile(rf"[{UNSPACED}]|[^\W_]+(?:['’][^\W_]+)*")  # `don't` is one word, `a_b` are two
CHAT_TOKENS = re.compile(r"<\|[a-z0-9_]+\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>")
# categories Cc and Cs without white space, and noncharacters
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
OPENING = "\"'“‘*# "
CLOSING = f"{OPENING}.:,;…-–—”’"
PICTURE = r"(?:image|picture|photo(?:graph)?|scene)"
APOLOGY = re.compile(
    r"(?:unfortunately, ?|oh, ?|no, ?)?(?:(?:i'm|i am|im) (?:so |very |really )?sorry\b"
    r"|sorry[,.!]|(?:my|i) apolog(?:ies|i[sz]e)\b|apologies[,.!]|i(?:'m| am) afraid\b)"
    r"|(?:es )?tut mir leid\b|als ki\b|(?:je suis )?désolée?\b|en tant qu(?:'ia|e modèle)\b"
    r"|lo siento\b|como modelo de\b|sinto muito\b|mi dispiace\b"
    r"|(?:很|非常)?抱歉|对不起|作为(?:一个|一名)?(?:人工智能|ai|语言模型)|申し訳"
)
AI = (
    r"(?:(?:large|vision|visual|multimodal|helpful|text-based|text-only) ){0,2}"
    r"(?:ai|artificial intelligence|language model)\b"
)
REFUSAL = re.compile(
    rf"\bas an? {AI}"
    rf"|\bi(?: am|'m) (?:just |only )?an? {AI}"
    r"|\bi(?: am|'m) (?:currently )?(?:unable|not (?:able|allowed|capable))\b"
    r"|\bi (?:cannot|can't|can not|could not|couldn't|won't|will not|do not|don't) "
    r"(?:actually |directly |really |currently )?"
    r"(?:assist|help|provide|describe|see|view|identify|process|analy[sz]e|comply|access|generate|answer"
    r"|open|load|recogni[sz]e|determine|fulfill?"
    r"|have (?:any |direct )?(?:access|information|enough|(?:the )?ability))\b"
    rf"|\bno {PICTURE} (?:(?:was|is|has been) )?"
    r"(?:provided|attached|uploaded|included|available|found|to (?:describe|caption|see))\b"
    rf"|\b{PICTURE} (?:is |was )?"
    r"(?:not (?:available|accessible|displayed|found|loaded|provided|attached|uploaded)|unavailable)\b"
    rf"|\b{PICTURE} (?:cannot|can't|can not|could not|couldn't) be "
    r"(?:accessed|described|displayed|found|loaded|opened|seen|viewed)\b"
    r"|\byou (?:have not|haven't|did not|didn't) (?:provide|attach|upload|share|include)d?(?:ed)?\b"
    r"|\b(?:unable|not possible|impossible) to (?:accurately )?"
    r"(?:access|describe|determine|see|view|provide|process|open|load) "
    rf"(?:an?|any|the|this|your) (?:\w+ (?:of|for) (?:the|this|your) )?{PICTURE}\b"
    rf"|\bwithout (?:seeing|access to|being able to see) (?:the|an|any|your) {PICTURE}\b"
    r"|\bplease (?:provide|upload|share|attach|send) (?:me )?(?:the|an|a|your) (?:image|picture|photo)"
)
TOKENS = re.compile(  # tokens and placeholders of chat templates; some people type them too
    r"</?s>|<(?:image|pad|unk|bos|eos|caption|im_(?:start|end|patch)|loc_\d+)>"
    r"|\[insert [^\]]*\]|\{(?:caption|description|image)\}"
    r"|(?:^|\s)(?:USER|ASSISTANT|Assistant|SYSTEM|HUMAN|GPT"
    r"|### ?(?:Human|Assistant|User|Instruction|Response)):"
)
BEFORE = re.compile(  # speaker names, and phrases before a caption
    r"(?:user|human|assistant|system|ai|gpt|bot|question|answer)\s*[:：]"
    r"|(?:sure|certainly|of course|absolutely|ok|okay|alright|great|yes)[!,.:]+ ?(?:thing[!,.:]+ ?)?"
    rf"(?:i\b|here\b|let me\b|this is\b|the {PICTURE})"
    r"|here(?:'s| is| are) (?:\w+[ -]){0,5}?(?:captions?|descriptions?)\b"
    r"|(?:based on|according to|following) (?:the|your) (?:prompt|request|instructions?)\b"
)
OFFER = re.compile(
    r"\b(?:let me know if|feel free to (?:ask|share|upload|provide)|how (?:can|may) i (?:help|assist)"
    r"|is there anything else (?:i|you)|would you like me to|(?:i )?hope this helps)\b"
)
UNFILLED = re.compile(
    rf"(?:(?:the|this|an?) )?(?:{PICTURE}|caption)"
    r"(?: (?:shows?|showing|depicts?|depicting|features?|displays?|contains?|captures?|is(?: of)?|of))?"
    rf"(?: an?| the)?|(?:this|it) is (?:an?|the) {PICTURE}(?: of)?(?: an?| the)?"
    rf"|in (?:the|this) {PICTURE},?(?: (?:there (?:is|are)|(?:we|you) (?:can )?see))?(?: an?| the)?"
    r"|unanswerable|unknown|untitled|none|null|nan|n/a|not (?:available|applicable)"
    r"|no (?:caption|description|answer)(?: available)?"
)


def fault(text: str, language: str, asked: Asked, gates: CaptionGates) -> str | None:
    """Return in one word why a text is no caption; None if it is one.

    Args:
        text: The text.
        language: Expected language, ISO 639; not checked if it is missing in `languages.SCRIPTS`.
        asked: Kind and prompt of the caption.
        gates: Limits, from params.
    """
    if len(text) > gates.max_characters:
        return "too_long"
    if CONTROL.search(text):
        return "control_characters"
    visible = _visible(text)
    if not visible:
        return "empty"
    words = [word.casefold() for word in WORD.findall(text)]
    reasons = {
        "refusal": asked.is_answer and is_refusal(text),
        "prompt_leak": bool(CHAT_TOKENS.search(text))
        or (asked.is_answer and leaks_prompt(text, asked.prompt or "", gates.min_leaked_words)),
        "empty": asked.is_answer and is_unfilled(visible),
        "repeated": is_repeated(words or text.split(), gates.max_repeats, gates.max_repeated_share),
        "truncated": asked.kind in gates.whole_sentences and not ends_sentence(visible),
        "wrong_language": other_language(text, language, gates.min_script_share) is True,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _visible(text: str) -> str:
    """Return the visible text: no zero-width and direction marks, no surrounding white space."""
    if text.isascii():
        return text.strip()
    invisible = {ord(character): None for character in set(text) if unicodedata.category(character) == "Cf"}
    return text.translate(invisible).strip()


def leaks_prompt(text: str, prompt: str, min_words: int) -> bool:
    """Say whether a text contains chat markers, or `min_words` consecutive words of the prompt.

    A caption that continues the prompt is no leak: for "a photo of", some models write "a photo of a dog",
    others "a dog".

    Args:
        text: The text.
        prompt: The prompt. One with fewer words leaks as a whole, if it has at least two; an empty or unknown
            one never leaks.
        min_words: Number of consecutive words that count as a leak.
    """
    if is_of_chat(text):
        return True
    words = [word.casefold() for word in WORD.findall(_without_continued_prompt(text, prompt))]
    length, runs = _runs(prompt, min_words)
    return length > 1 and not runs.isdisjoint(_windows(words, length))


@cache
def _runs(prompt: str, min_words: int) -> tuple[int, frozenset[tuple[str, ...]]]:
    """Return how many consecutive words of a prompt are a leak, and all such word runs."""
    words = [word.casefold() for word in WORD.findall(prompt)]
    length = min(min_words, len(words))
    return length, frozenset(_windows(words, length))


def _windows(words: list[str], length: int) -> Iterator[tuple[str, ...]]:
    """Yield every run of `length` consecutive words."""
    return zip(*(words[first:] for first in range(length)), strict=False)


def _without_continued_prompt(text: str, prompt: str) -> str:
    """Remove the prompt from the start of a text that continues it, if the prompt ends mid-sentence."""
    beginning = prompt.strip()
    is_open = beginning[-1:].isalnum() and text[: len(beginning)].casefold() == beginning.casefold()
    rest = text[len(beginning) :]
    return rest if is_open and re.match(r"\s+\w", rest) else text


def is_repeated(words: list[str], max_repeats: int, max_repeated_share: float) -> bool:
    """Say whether a text repeats itself.

    It does in three cases: it is a single word three times or more; a phrase occurs more than `max_repeats`
    times in a row; or the share of three-word runs that occurred before in the text is above
    `max_repeated_share`. Example: "a dog a dog a dog a dog" is a two-word phrase four times in a row; four of
    its six runs occurred before.
    """
    words = [word for word in words if not word.isdigit()] or words  # ignore the numbers of a list
    if len(words) >= MIN_REPEATS and len(set(words)) == 1:
        return True
    # each word of a repeated phrase occurs as often as the phrase
    frequent = sum(count for count in Counter(words).values() if count > max_repeats)
    for period in range(1, min(MAX_PHRASE_WORDS, frequent // (max_repeats + 1)) + 1):
        repeats = bytes(map(eq, words, words[period:]))  # 1 where a word equals the one a period earlier
        if b"\1" * (max_repeats * period) in repeats:
            return True
    runs = list(_windows(words, RUN_WORDS))
    return bool(runs) and 1 - len(set(runs)) / len(runs) > max_repeated_share


def ends_sentence(text: str) -> bool:
    """Say whether a text ends like a sentence."""
    return text.rstrip(AFTER_SENTENCE_END).endswith(SENTENCE_ENDS)


def is_refusal(text: str) -> bool:
    """Say whether a text refuses: it is about the model itself or a missing image, not about the image.

    Covers English, and the beginnings of the most frequent apologies in some other languages.
    """
    plain = _plain(text)
    return bool(APOLOGY.match(plain.lstrip(OPENING)) or REFUSAL.search(plain))


def is_of_chat(text: str) -> bool:
    """Say whether a text contains chat markers.

    These are template tokens, speaker names, and phrases around a caption ("Sure! Here it is:").
    """
    plain = _plain(text)
    return bool(TOKENS.search(text) or BEFORE.match(plain.lstrip(OPENING)) or OFFER.search(plain))


def is_unfilled(text: str) -> bool:
    """Say whether a text is only the beginning of a caption ("The image shows"), or says "none"."""
    return UNFILLED.fullmatch(_plain(text).strip(CLOSING)) is not None


def _plain(text: str) -> str:
    return text.replace("’", "'").lower()
