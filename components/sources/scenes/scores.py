"""Score captions of scenes: facts against ground truth, and BLEU-4 against reference captions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from components.sources.scenes.english import dense_captions, described_facts
from components.sources.scenes.space import PLACES, Scene, SceneObject

Facts = set[tuple[str, str, str]]
BLEU_LENGTH = 4


def fact_scores(captions: Sequence[str], truths: Sequence[Facts]) -> dict[str, float]:
    """Score captions by the facts they state.

    Args:
        captions: Generated captions, short or dense.
        truths: The facts that a perfect caption of each scene states, see `scene_facts`.

    Returns:
        `facts_right`: share of the true facts that captions state; `facts_stated_right`: share of the stated
        facts that are true; `captions_right`: share of captions that state exactly the true facts. All 0..1.
    """
    stated = [described_facts(caption) for caption in captions]
    right = sum(len(facts & truth) for facts, truth in zip(stated, truths, strict=True))
    return {
        "facts_right": right / max(1, sum(map(len, truths))),
        "facts_stated_right": right / max(1, sum(map(len, stated))),
        "captions_right": sum(facts == truth for facts, truth in zip(stated, truths, strict=True))
        / max(1, len(truths)),
    }


def bleu(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return corpus BLEU-4, 0..1, over lower-case words without smoothing (Papineni et al. 2002, section 2).

    Args:
        captions: Generated captions.
        references: One or more reference captions for each caption.
    """
    hits, totals = [0] * BLEU_LENGTH, [0] * BLEU_LENGTH
    written_words = reference_words = 0
    for caption, true in zip(captions, references, strict=True):
        words, true_words = caption.lower().split(), [text.lower().split() for text in true]
        written_words += len(words)
        reference_words += min(
            (abs(len(reference) - len(words)), len(reference)) for reference in true_words
        )[1]
        for length in range(1, BLEU_LENGTH + 1):
            counts = _grams(words, length)
            limits: Counter[tuple[str, ...]] = Counter()
            for reference in true_words:
                limits |= _grams(reference, length)
            hits[length - 1] += (counts & limits).total()
            totals[length - 1] += counts.total()
    if not all(hits):
        return 0.0
    precision = sum(math.log(hit / total) for hit, total in zip(hits, totals, strict=True)) / BLEU_LENGTH
    return math.exp(precision + min(0.0, 1 - reference_words / written_words))


def _grams(words: list[str], length: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(length)), strict=False))


def scene_described(text: str) -> Scene | None:
    """Return the scene that a dense caption of this grammar describes in full; None for any other text."""
    facts: dict[str, dict[str, str]] = {}
    for place, attribute, value in sorted(described_facts(text)):
        facts.setdefault(place, {})[attribute] = value
    background = facts.pop("background", {}).get("colour", "")
    try:
        objects = tuple(SceneObject(place, **facts[place]) for place in PLACES if place in facts)
        scene = Scene("", "", 0, 0, background, objects)
        return scene if text in dense_captions(scene) else None
    except (TypeError, KeyError):  # an object lacks an attribute, or the number of objects is wrong
        return None
