"""What a chat model says instead of a caption, or around one: refusals, talk, templates left empty.

Only looked for in what such a model wrote: people write "I'm sorry" on greeting cards.
"""

from __future__ import annotations

import re

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

TOKENS = re.compile(  # of templates; people write such, too
    r"</?s>|<(?:image|pad|unk|bos|eos|caption|im_(?:start|end|patch)|loc_\d+)>"
    r"|\[insert [^\]]*\]|\{(?:caption|description|image)\}"
    r"|(?:^|\s)(?:USER|ASSISTANT|Assistant|SYSTEM|HUMAN|GPT"
    r"|### ?(?:Human|Assistant|User|Instruction|Response)):"
)
BEFORE = re.compile(  # who speaks, and what is said ahead of a caption
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


def is_refusal(text: str) -> bool:
    """Say whether a text speaks of the writer or of a missing image instead of one that is there.

    English, and how the most frequent apologies of some other languages begin.
    """
    plain = _plain(text)
    return bool(APOLOGY.match(plain.lstrip(OPENING)) or REFUSAL.search(plain))


def is_of_chat(text: str) -> bool:
    """Say whether a text holds marks of a chat.

    They are tokens of a template, names of speakers, and what is said around a caption ("Sure! Here it is:").
    """
    plain = _plain(text)
    return bool(TOKENS.search(text) or BEFORE.match(plain.lstrip(OPENING)) or OFFER.search(plain))


def is_unfilled(text: str) -> bool:
    """Say whether a text begins a caption and says nothing more ("The image shows"), or says "none"."""
    return UNFILLED.fullmatch(_plain(text).strip(CLOSING)) is not None


def _plain(text: str) -> str:
    return text.replace("’", "'").lower()
