from __future__ import annotations

import math
import random

import pytest

from components.sources.scenes.scene import draw_scenes, scene_captions, scene_facts
from components.sources.scenes.scores import bleu, fact_scores, scene_described


def test_a_dense_caption_gives_its_scene_back() -> None:
    for scene in draw_scenes("scores", "train", 40, 1):
        for text in scene_captions(scene)["dense"]:
            found = scene_described(text)
            assert found is not None
            assert found.objects == scene.objects
            assert found.background == scene.background


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A small red dog in the top left corner of a white house.",
        "On a white surface one can see a pair of simple figures.",
        "a small red circle and a large blue star",
    ],
)
def test_other_texts_describe_no_scene(text: str) -> None:
    assert scene_described(text) is None


def test_fact_scores_by_hand() -> None:
    scene = next(draw_scenes("scores", "train", 1, 1))
    truth = scene_facts(scene, "short")
    text = scene_captions(scene)["short"][0]
    wrong = text.replace(scene.objects[0].colour, "plaid", 1)
    right = fact_scores([text], [truth])
    assert right == {"facts_right": 1.0, "facts_stated_right": 1.0, "captions_right": 1.0}
    scores = fact_scores([text, wrong, ""], [truth] * 3)
    assert scores["facts_right"] == pytest.approx((2 * len(truth) - 1) / (3 * len(truth)))
    assert scores["facts_stated_right"] == 1.0
    assert scores["captions_right"] == pytest.approx(1 / 3)


def test_bleu_by_hand() -> None:
    # 5, 3, 2 and 1 n-grams of 6, 5, 4 and 3 are found; the lengths are equal
    found = bleu(["the cat sat on the rug"], [["the cat sat on the mat"]])
    assert found == pytest.approx((5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)
    assert bleu(["a b c d e"], [["a b c d e f"]]) == pytest.approx(math.exp(1 - 6 / 5))
    assert bleu(["a b c"], [["a b c"]]) == 0.0


def test_bleu_is_nltks() -> None:
    corpus_bleu = pytest.importorskip("nltk.translate.bleu_score").corpus_bleu
    draw = random.Random(4)  # noqa: S311 - no secret
    texts = [" ".join(draw.choices("abcd", k=draw.randint(4, 15))) for _ in range(90)]
    written, true = texts[:30], [texts[30 + n : 90 : 30] for n in range(30)]
    expected = corpus_bleu(
        [[text.split() for text in row] for row in true], [text.split() for text in written]
    )
    assert bleu(written, true) == pytest.approx(expected)
