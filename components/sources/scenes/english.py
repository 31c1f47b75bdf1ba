"""English captions of procedural scenes (noisy alt text, short, dense), and the parser back to facts."""

from __future__ import annotations

import random
import re

from components.sources.scenes.space import (
    BACKGROUNDS,
    COLOURS,
    FILLS,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
)

OTHER_WORDS = {  # synonyms in the second dense caption
    "small": "little",
    "large": "big",
    "filled": "solid",
    "outlined": "hollow",
    "top": "upper",
    "bottom": "lower",
}
FIRST_WORDS = {other: word for word, other in OTHER_WORDS.items()}
WORD_ATTRIBUTES = {
    word: attribute
    for attribute, words in (("size", SIZES), ("fill", FILLS), ("colour", COLOURS), ("shape", SHAPES))
    for word in words
}
COUNT_WORDS = {2: "two", 3: "three"}
GROUP_WORDS = {2: "pair", 3: "trio"}

ALT_BEFORE = ("", "", "", "free vector", "image of", "photo", "clipart:", "cheap poster")
ALT_AFTER = (
    "",
    "",
    "",
    "stock illustration",
    "isolated",
    "- download now",
    "wallpaper hd",
    "| my shop",
    "icon set",
)
ALT_IRRELEVANT = (
    "untitled",
    "no description",
    "click to enlarge",
    "summer sale",
    "new collection",
    "thumbnail",
)
FILE_NAMES = ("IMG_{}.jpg", "dsc{}.png", "shapes-{}.webp", "{}_final_v2.jpg")
FILE_NAME_SHARE, IRRELEVANT_SHARE, WRONG_COLOUR_SHARE, DROPPED_WORD_SHARE = 0.3, 0.08, 0.1, 0.35


def short_caption(scene: Scene) -> str:
    """Return one phrase: size, colour and shape of each object in reading order."""
    phrases = [f"a {item.size} {item.colour} {item.shape}" for item in scene.objects]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def dense_captions(scene: Scene) -> list[str]:
    """Return two captions of 50 to 60 words that state all facts, in reading order, place before object.

    The second states the same facts in other words (large/big, filled/solid, top/upper, ...).
    """
    objects = {item.place: item for item in scene.objects}
    first = [
        f"The picture shows {COUNT_WORDS[len(objects)]} shapes on a plain {scene.background} background."
    ]
    second = [f"On a {scene.background} surface one can see a {GROUP_WORDS[len(objects)]} of simple figures."]
    for place in PLACES:
        first.append(f"In the {place} corner there is {_first_phrase(objects.get(place))}.")
        second.append(f"The {_in_other_words(place)} quarter {_second_phrase(objects.get(place))}.")
    return [" ".join(first), " ".join(second)]


def alt_text(scene: Scene) -> str:
    """Return a noisy caption as on the web: incomplete, sometimes wrong, sometimes off topic."""
    draw = random.Random(f"{scene.identity}/alt")  # noqa: S311 - no secret
    words = [draw.choice(ALT_BEFORE)]
    if draw.random() < FILE_NAME_SHARE:
        words.append(draw.choice(FILE_NAMES).format(draw.randint(100, 9999)))
    if draw.random() < IRRELEVANT_SHARE:
        words.append(draw.choice(ALT_IRRELEVANT))
    else:
        objects = draw.sample(scene.objects, draw.randint(1, len(scene.objects)))
        words.append(" ".join(_alt_phrase(item, draw) for item in objects))
    words.append(draw.choice(ALT_AFTER))
    return " ".join(word for word in words if word)


def described_facts(text: str) -> set[tuple[str, str, str]]:
    """Return the facts that a short or dense caption of this grammar states, in the form of `scene_facts`.

    Case, punctuation and words without a fact are ignored, so that a captioner's output can be scored. A
    caption that names a place is read as a dense one.
    """
    words = [FIRST_WORDS.get(word, word) for word in re.findall(r"[a-z]+", text.lower())]
    pairs = [f"{first} {second}" for first, second in zip(words, [*words[1:], ""], strict=False)]
    if any(pair in PLACES for pair in pairs):
        return _dense_facts(words, pairs)
    facts = set()
    order = 1
    for word in words:
        attribute = WORD_ATTRIBUTES.get(word)
        if attribute in ("size", "colour", "shape"):
            facts.add((str(order), attribute, word))
        if attribute == "shape":
            order += 1
    return facts


def _dense_facts(words: list[str], pairs: list[str]) -> set[tuple[str, str, str]]:
    facts = set()
    place = "background"
    for word, pair in zip(words, pairs, strict=True):
        if pair in PLACES:
            place = pair
        elif place == "background":
            if word in BACKGROUNDS:
                facts.add((place, "colour", word))
        elif attribute := WORD_ATTRIBUTES.get(word):
            facts.add((place, attribute, word))
    return facts


def _first_phrase(item: SceneObject | None) -> str:
    return f"one {item.size} {item.fill} {item.colour} {item.shape}" if item else "only empty background"


def _second_phrase(item: SceneObject | None) -> str:
    if item is None:
        return "is left entirely without any figure"
    return f"holds a {OTHER_WORDS[item.size]} {item.shape} in {OTHER_WORDS[item.fill]} {item.colour}"


def _in_other_words(place: str) -> str:
    vertical, horizontal = place.split()
    return f"{OTHER_WORDS[vertical]} {horizontal}"


def _alt_phrase(item: SceneObject, draw: random.Random) -> str:
    colour = draw.choice(COLOURS) if draw.random() < WRONG_COLOUR_SHARE else item.colour
    words = [word for word in (item.size, colour) if draw.random() >= DROPPED_WORD_SHARE]
    return " ".join([*words, item.shape])
