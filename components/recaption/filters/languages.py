"""Check whether a caption is in the requested language: by script, then by function words.

No language detector is used. Captions have five to sixty words. Small, maintained detectors need a model that
is a pickle, a download or a hundred megabytes, and they guess when a text gives no evidence. Here a caption
is refused only on evidence: letters of another script, or more distinct function words of another language
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
# words that are frequent in captions and are neither words nor names in captions of another listed language;
# languages that are not listed are checked by script alone
FUNCTION_WORDS: dict[str, frozenset[str]] = {
    "cs": _words(
        "na je jsou se si za která který které kteří při před nebo nad pod mezi vedle kolem když ve ze dva "
        "dvě tři jeho jejich svém své svou muž muži žena ženy dítě děti chlapec dívka pes psi lidé lidí "
        "skupina mladý mladá malý malá drží hraje sedí stojí jde běží skáče"
    ),
    "de": _words(
        "der das ein eine einen einem einer eines und ist sind mit auf im aus bei beim zwei drei vor über "
        "neben hinter unter während durch von zum zur sich nicht dem etwas seine seinem ihre ihrem mehrere "
        "junger junge junges kleiner kleine kleines großen roten blauen weißen schwarzen grünen gelben steht "
        "stehen sitzt sitzen liegt läuft rennt geht fährt springt spielt spielen hält trägt schaut"
    ),
    "en": _words(
        "the and is are with on of at an by two while his her their it its from for that there this has "
        "near next who wearing standing sitting holding playing running looking walking through front"
    ),
    "es": _words(
        "el un una unos unas y en con por está están su sus del al se dos mientras junto sobre que lleva "
        "hombre mujer niño niña niños perro personas calle joven delante"
    ),
    "fr": _words(
        "le un une les des du et en est sont avec dans sur au aux deux trois qui elle il se ses par pour "
        "près devant derrière homme hommes femme femmes fille garçon enfants chien chiens gens personnes "
        "jeune assis assise debout tient portant tenant regarde joue saute tandis"
    ),
    "it": _words(
        "il lo gli un una uno e è sono con di della del nel nella sul sulla si che mentre accanto uomo donna "
        "ragazzo ragazza bambino bambina cane persone giovane"
    ),
    "nl": _words(
        "een het de en met op zijn staat zit loopt speelt draagt twee naast voor achter terwijl bij naar uit "
        "door aan hun haar vrouw jongen meisje hond mensen"
    ),
    "pl": _words(
        "się na jest są przy przed obok który która które oraz dwa dwie jego ze mężczyzna kobieta chłopiec "
        "dziewczyna dziecko pies stoi siedzi ludzi"
    ),
    "pt": _words(
        "os um uma uns umas com por está estão seu sua se dois duas da na em enquanto homem mulher menino "
        "menina cachorro pessoas jovem"
    ),
}
# words of several languages: evidence for each of them, and against none
SHARED_WORDS: dict[str, frozenset[str]] = {
    "cs": _words("a s v po do pro"),
    "de": _words("die den am an in um"),
    "en": _words("a in to as over under behind into"),
    "es": _words("los las la a de"),
    "fr": _words("la a son de pendant train"),
    "it": _words("la in a due"),
    "nl": _words("van in is of over die"),
    "pl": _words("w z a do"),
    "pt": _words("no o e de"),
}
MIN_EVIDENCE = 3  # distinct function words of another language; they must also be over twice those of its own
WORD = re.compile(r"[^\W\d_]+")
STARTS_SENTENCE = re.compile(r"(?:^|[.!?…])[^\w.!?…]*$")


def other_language(text: str, language: str, min_script_share: float) -> bool | None:
    """Say whether a text is in another language than stated; None if the stated language cannot be checked.

    Args:
        text: A caption.
        language: Its ISO 639 code.
        min_script_share: Minimum share of letters in the language's script, 0..1.
    """
    scripts = SCRIPTS.get(language)
    if scripts is None:
        return None
    if not (text.isascii() and "LATIN" in scripts) and not _is_in_script(text, scripts, min_script_share):
        return True
    own_words = FUNCTION_WORDS.get(language)
    if own_words is None:
        return False
    words = _plain_words(text)
    own_count = len(words & (own_words | SHARED_WORDS[language]))
    other_count = max(len(words & (words_of_other - own_words)) for words_of_other in FUNCTION_WORDS.values())
    return other_count >= MIN_EVIDENCE and other_count > 2 * own_count


def _plain_words(text: str) -> set[str]:
    """Return the distinct words of a text, without capitalised ones inside a sentence: they may be names."""
    return {
        match[0].lower()
        for match in WORD.finditer(text)
        if match[0].islower() or STARTS_SENTENCE.search(text, 0, match.start())
    }


def _is_in_script(text: str, scripts: frozenset[str], min_share: float) -> bool:
    """Say whether at least this share of a text's letters is in these scripts; true without letters."""
    counts = Counter(unicodedata.normalize("NFKC", text))
    letters = {letter: count for letter, count in counts.items() if letter.isalpha()}
    in_script = sum(count for letter, count in letters.items() if _script(letter) in scripts)
    return in_script >= min_share * sum(letters.values())


@cache
def _script(letter: str) -> str:
    """Return the script of a letter: the first word of its Unicode name."""
    return re.split(r"[ -]", unicodedata.name(letter, ""))[0]
