from __future__ import annotations

from components.recaption.scores.quality import Quality
from components.sources.scenes.scene import draw_scenes, scene_captions
from components.storage.side_tables import Caption

COLUMNS = {"short": "tiny_short", "dense": "tiny_dense"}


def captions_of(key: str, split: str, by_column: dict[str, list[str]]) -> list[Caption]:
    return [
        Caption(key, split, column, "en", number, text, "x")
        for column, texts in by_column.items()
        for number, text in enumerate(texts)
    ]


def figures(written: dict[str, list[str]], split: str = "validation") -> dict[str, dict[str, float]]:
    quality = Quality(COLUMNS)
    for number, scene in enumerate(draw_scenes("quality", "validation", 2, 3)):
        truth = scene_captions(scene)
        own = {column: [texts[number]] for column, texts in written.items() if texts[number]}
        quality.add(captions_of(f"k{number}", split, truth | own))
    found: dict[str, dict[str, float]] = quality.figures()
    return found


def perfect(column: str, kind: str, place: int) -> dict[str, list[str]]:
    scenes = draw_scenes("quality", "validation", 2, 3)
    return {column: [scene_captions(scene)[kind][place].lower() for scene in scenes]}


def test_the_truth_itself_is_wholly_right() -> None:
    for place in (0, 1):
        found = figures(perfect("tiny_short", "short", 0) | perfect("tiny_dense", "dense", place))
        for kind in ("short", "dense"):
            assert found[kind] == {
                "rows": 2,
                "facts_right": 1.0,
                "facts_stated_right": 1.0,
                "captions_right": 1.0,
                "bleu_4": 1.0,
            }


def test_a_missing_caption_is_wrong() -> None:
    written = perfect("tiny_short", "short", 0)
    written["tiny_short"][1] = ""
    found = figures(written)["short"]
    assert found["captions_right"] == 0.5
    assert found["facts_right"] < 1.0
    assert found["facts_stated_right"] == 1.0


def test_without_ground_truth_there_is_no_figure() -> None:
    assert figures(perfect("tiny_short", "short", 0), split="train") == {"short": None, "dense": None}
    quality = Quality(COLUMNS)
    photograph = {"dense": ["A small red dog runs on a white beach."], "tiny_dense": ["a small red dog"]}
    quality.add(captions_of("photo", "validation", photograph))
    assert quality.figures() == {"short": None, "dense": None}
