"""Whether a caption is in the language asked for: by script, then by function words.

No language detector is taken. Captions have five to sixty words; what is small and kept up decides by a model
that is a pickle, a download or a hundred megabytes, and guesses where there is nothing to go by. Here a
caption is refused on evidence only: letters of another script, or more function words of another language
than of its own.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


OF_LATIN = _words(
    "af ca cs cy da de en es et eu fi fr gl hr hu id is it lt lv ms nb nl no pl pt ro sk sl sv sw tl tr vi"
)
OF_CYRILLIC = _words("be bg kk mk ru uk")
SCRIPTS: dict[str, frozenset[str]] = {
    **dict.fromkeys(OF_LATIN, frozenset({"LATIN"})),
    **dict.fromkeys(OF_CYRILLIC, frozenset({"CYRILLIC"})),
    "ar": frozenset({"ARABIC"}),
    "bn": frozenset({"BENGALI"}),
    "el": frozenset({"GREEK"}),
    "fa": frozenset({"ARABIC"}),
    "he": frozenset({"HEBREW"}),
    "hi": frozenset({"DEVANAGARI"}),
    "ja": frozenset({"CJK", "HIRAGANA", "KATAKANA"}),
    "ko": frozenset({"HANGUL", "CJK"}),
    "mr": frozenset({"DEVANAGARI"}),
    "ta": frozenset({"TAMIL"}),
    "th": frozenset({"THAI"}),
    "ur": frozenset({"ARABIC"}),
    "zh": frozenset({"CJK", "BOPOMOFO"}),
}
# frequent in captions and hardly words of another language of this list; the others are told by script alone
FUNCTION_WORDS: dict[str, frozenset[str]] = {
    "cs": _words(
        "na v je jsou se který která které při před po nebo svém své ve ze muž žena dva dvě jeho jejich"
    ),
    "de": _words(
        "der die das ein eine einen einem einer eines und ist sind mit auf im am beim zwei vor über neben "
        "hinter unter während sich nicht von zum zur steht sitzt den dem"
    ),
    "en": _words(
        "the and is are with on of at an by two while his her their it its from for that there this has "
        "near next who wearing standing sitting"
    ),
    "es": _words(
        "el los las un una unos unas y con por está están su sus del al hombre mujer dos mientras junto "
        "sobre que lleva"
    ),
    "fr": _words(
        "le les un une des du et est sont avec dans sur au aux deux qui elle il son ses homme femme près "
        "pendant en train assis"
    ),
    "it": _words(
        "il lo gli un una uno e è sono con di della del nel nella sul sulla uomo donna due mentre che accanto"
    ),
    "nl": _words("een het de en van met op zijn staat zit twee naast voor achter terwijl bij naar hun haar"),
    "pl": _words("się na jest są przy przed który która które oraz dwa dwie mężczyzna kobieta jego ze"),
    "pt": _words("os um uma uns umas com por está estão seu sua dois duas da na homem mulher enquanto em"),
}
# by word, the languages it is frequent in: most words of a caption are in none, and cost one look
LANGUAGES_OF = {
    word: [language for language, known in FUNCTION_WORDS.items() if word in known]
    for word in frozenset().union(*FUNCTION_WORDS.values())
}
MIN_EVIDENCE = 2  # function words of another language, and twice as many as of its own
WORD = re.compile(r"[^\W\d_]+")


def other_language(text: str, language: str, min_script_share: float) -> bool | None:
    """Say whether a text is in another language than it is said to be; None where that cannot be told.

    Args:
        text: A caption.
        language: Its ISO 639 code.
        min_script_share: Of its letters, at least so many are of the language's script, 0..1.
    """
    scripts = SCRIPTS.get(language)
    if scripts is None:
        return None
    if not (text.isascii() and "LATIN" in scripts) and not _is_in(text, scripts, min_script_share):
        return True
    own = FUNCTION_WORDS.get(language)
    if own is None:
        return False
    counts = dict.fromkeys(FUNCTION_WORDS, 0)
    for word in WORD.findall(text.lower()):
        if word in own:
            counts[language] += 1
            continue
        for other in LANGUAGES_OF.get(word, ()):
            counts[other] += 1
    own_count = counts.pop(language)
    other_count = max(counts.values())
    return other_count >= MIN_EVIDENCE and other_count > 2 * own_count


def _is_in(text: str, scripts: frozenset[str], min_share: float) -> bool:
    """Say whether so many of a text's letters are of some scripts; those of a text without any are."""
    counts = Counter(unicodedata.normalize("NFKC", text))
    letters = {letter: count for letter, count in counts.items() if letter.isalpha()}
    in_script = sum(count for letter, count in letters.items() if _script(letter) in scripts)
    return in_script >= min_share * sum(letters.values())


@cache
def _script(letter: str) -> str:
    """Return the script of a letter: the first word of its Unicode name."""
    return re.split(r"[ -]", unicodedata.name(letter, ""))[0]
