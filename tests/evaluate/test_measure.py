"""Golden figures of arms made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from components.evaluate.findings import Findings, at_chance, best_of, compare
from components.evaluate.gallery import _choose
from components.evaluate.measure import ArmResult, measure_arm, measure_captions, measure_difference
from components.evaluate.models import Model, class_embeddings
from components.evaluate.report import percent
from components.running.held_out import (
    HeldOut,
    HeldOutVectors,
    TaskCaptions,
    caption_pairs,
    label_truth,
    task_captions,
)
from components.settings.evaluate import Evaluate, RetrievalTask, ZeroShotTask
from components.settings.params import Params
from components.settings.tune_llm import CaptionRetrieval
from components.storage.pixels import Pixels
from components.storage.side_tables import Caption, write_keys

TEXTS = {"k0": ["red", "rot"], "k1": ["blue"], "k2": [], "k3": ["green"]}
LABELS: dict[str, dict[str, list[str]]] = {"k0": {"c": ["a", "b"]}, "k1": {"c": ["b"]}, "k3": {"c": ["c"]}}


class HandMade:
    """Three images and their captions on the axes; the caption `blue` lies nearest to the wrong image."""

    def images(self, _held_out: HeldOut) -> Tensor:
        return torch.eye(4)

    def captions(self, captions: list[Caption]) -> Tensor:
        rows = {
            "red": [1.0, 0, 0, 0],
            "rot": [0.8, 0, 0, 0.6],
            "blue": [0.9, 0.3, 0.0, 0.0],
            "green": [0, 0, 0, 1.0],
        }
        return F.normalize(torch.tensor([rows[caption.text] for caption in captions]), dim=1)

    def prompts(self, _task: ZeroShotTask, classes: list[str]) -> Tensor:
        assert classes == ["a", "b", "c"]
        return torch.tensor([[0.6, 0.8, 0, 0], [0.8, 0.6, 0, 0], [0, 0, 0, 1.0]])

    def truncated_share(self, _captions: list[Caption]) -> None:
        return None


@pytest.fixture
def held_out(tmp_path: Path) -> HeldOut:
    np.save(tmp_path / "images.npy", np.zeros((4, 3, 2, 2), np.uint8))
    write_keys(tmp_path / "keys.parquet", sorted(TEXTS))
    captions = {
        key: [Caption(key, "test", "colour", "en", n, text, "") for n, text in enumerate(texts)]
        for key, texts in TEXTS.items()
    }
    return HeldOut(
        sorted(TEXTS),
        captions,
        {"k2": {}, **LABELS},
        Pixels([tmp_path]),
        torch.arange(4),
        [],
        "test",
        tmp_path,
    )


@pytest.fixture
def settings(smoke: Params) -> Evaluate:
    return smoke.evaluate.model_copy(
        update={
            "recall_at": [1, 2],
            "zero_shot": [ZeroShotTask(name="c", label="c", templates=["{label}"])],
            "bootstrap_samples": 50,
        }
    )


def _task(held_out: HeldOut) -> TaskCaptions:
    return task_captions(
        held_out, RetrievalTask(name="colour", column="colour", language="en"), "evaluate.retrieval"
    )


def test_figures_of_an_arm_made_by_hand(held_out: HeldOut, settings: Evaluate) -> None:
    task = _task(held_out)
    assert task.images.tolist() == [0, 1, 3]  # k2 has no caption and is no candidate
    arm = measure_arm({}, cast("Model", HandMade()), held_out, [task], settings, seed=0)
    found = arm.retrieval["colour"]
    # red, rot and green find their image; blue finds k0 first, its own second
    assert found["text_to_image"]["recall_at_1"]["value"] == 0.75
    assert found["text_to_image"]["recall_at_2"]["value"] == 1.0
    assert found["text_to_image"]["recall_at_1"]["chance"] == pytest.approx(1 / 3, abs=1e-6)
    # k0 finds red, k1 finds blue, k3 finds green
    assert found["image_to_text"]["recall_at_1"]["value"] == 1.0
    assert found["image_to_text"]["recall_at_1"]["chance"] == pytest.approx((2 + 1 + 1) / 4 / 3, abs=1e-6)
    assert arm.ranks["colour"].tolist() == [0, 0, 1, 0]
    assert arm.tops["colour"].tolist() == [[0, 1, 2], [0, 2, 1], [0, 1, 2], [2, 0, 1]]
    # k0 is nearest to b, which is one of its labels; k1 is nearest to a, which is not
    assert arm.zero_shot["c"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert arm.zero_shot["c"]["chance"] == pytest.approx((2 + 1 + 1) / 3 / 3, abs=1e-6)


def test_arms_are_compared_image_by_image_both_ways(held_out: HeldOut, settings: Evaluate) -> None:
    task = _task(held_out)
    one = measure_arm({"name": "x"}, cast(Model, HandMade()), held_out, [task], settings, seed=1)
    other = replace(
        one, ranks={"colour": torch.tensor([0, 0, 0, 2])}, image_ranks={"colour": torch.tensor([4, 0, 4])}
    )
    found = measure_difference(other, one, task, settings, seed=1)
    # blue is found by the other alone, green by the first alone; two of three images are no longer found
    assert found["text_to_image"]["value"] == 0
    assert found["text_to_image"]["low"] < 0 < found["text_to_image"]["high"]
    assert found["image_to_text"]["value"] == pytest.approx(-2 / 3, abs=1e-6)
    assert found["image_to_text"]["high"] <= 0
    same = measure_difference(one, one, task, settings, seed=1)
    assert same["text_to_image"] == {"value": 0, "low": 0, "high": 0}


def test_labels_as_truth(held_out: HeldOut) -> None:
    classes, images, truth = label_truth(held_out, "c")
    assert classes == ["a", "b", "c"]
    assert images.tolist() == [0, 1, 3]
    assert truth.tolist() == [[True, True, False], [False, True, False], [False, False, True]]


def test_pairs_of_one_column_are_its_first_two_captions(held_out: HeldOut) -> None:
    firsts, seconds = caption_pairs(held_out, CaptionRetrieval(name="x", first="colour", second="colour"))
    assert [(one.text, two.text) for one, two in zip(firsts, seconds, strict=True)] == [("red", "rot")]


def test_a_class_is_the_mean_of_its_prompts() -> None:
    rows = class_embeddings(torch.tensor([[1.0, 0], [0, 1.0], [0, -1.0], [0, -1.0]]), templates=2)
    assert torch.allclose(rows, torch.tensor([[0.5**0.5, 0.5**0.5], [0, -1.0]]))


def _figure(value: float, low: float, high: float, chance: float = 0.1) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "chance": chance, "beats_chance": low > chance}


def _findings(
    held_out: HeldOut,
    settings: Evaluate,
    paired: dict[str, dict[str, float]] | None = None,
    **figures: dict[str, Any],
) -> Findings:
    task = _task(held_out)
    arms = {}
    for name, figure in figures.items():
        both = {"text_to_image": {"recall_at_1": figure}, "image_to_text": {"recall_at_1": _figure(1, 1, 1)}}
        arms[name] = ArmResult({}, {"colour": both}, ranks={"colour": torch.tensor([0, 3, 1, 0])})
    differences = {
        control: {"colour": {"text_to_image": difference}} for control, difference in (paired or {}).items()
    }
    return Findings(
        "smoke", 0, settings, {}, [task], arms, {}, differences, {}, left_out=None, equal_cost=None
    )


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.01, 0.3, "better"), (-0.1, 0.2, "open"), (-0.4, -0.1, "worse")]
)
def test_only_a_paired_interval_beside_zero_is_a_difference(
    held_out: HeldOut, settings: Evaluate, low: float, high: float, verdict: str
) -> None:
    paired = {"c": {"value": (low + high) / 2, "low": low, "high": high}}
    findings = _findings(
        held_out,
        settings,
        paired,
        a=_figure(0.5, 0.4, 0.6),  # overlaps: what is hard is hard for both, and no part of a difference
        b=_figure(0.2, 0.1, 0.3),
        c=_figure(0.5, 0.4, 0.6),
    )
    (one,) = compare(findings)
    assert (one.control_name, one.verdict) == ("c", verdict)


def test_an_arm_alone_is_compared_with_nothing(held_out: HeldOut, settings: Evaluate) -> None:
    assert compare(_findings(held_out, settings, a=_figure(0.5, 0.4, 0.6))) == []


def test_best_is_marked_only_above_all_others() -> None:
    low, middle, high = _figure(0.2, 0.1, 0.3), _figure(0.5, 0.4, 0.6), _figure(0.8, 0.6, 0.9)
    assert best_of({"a": low, "b": middle}) == "b"
    assert best_of({"a": low, "b": middle, "c": high}) is None
    assert best_of({"a": low}) is None


def test_what_does_not_beat_chance_is_named(held_out: HeldOut, settings: Evaluate) -> None:
    findings = _findings(held_out, settings, a=_figure(0.5, 0.2, 0.9), b=_figure(0.2, 0.1, 0.3))
    assert at_chance(findings) == {"b": ["colour (text to image)"]}


def test_the_gallery_takes_first_hits_and_misses(held_out: HeldOut, settings: Evaluate) -> None:
    findings = _findings(held_out, settings, a=_figure(0.5, 0.4, 0.6), b=_figure(0.2, 0.1, 0.3))
    task = findings.tasks[0]
    assert _choose(findings, task, 2) == [0, 2]  # red hits; rot is no first caption; blue misses
    assert _choose(findings, task, 4) == [0, 3, 2]
    assert _choose(findings, task, 0) == []


@pytest.mark.parametrize(("share", "text"), [(0.5578, "55.8"), (0, "0.0"), (0.0004, "<0.1"), (1, "100.0")])
def test_percent_with_one_decimal(share: float, text: str) -> None:
    assert percent(share) == text


def test_a_caption_of_two_images_is_one_candidate(smoke: Params) -> None:
    class Cached:
        def of_captions(self, captions: list[Caption]) -> Tensor:
            return HandMade().captions(captions)

    def captions(column: str, texts: list[str]) -> list[Caption]:
        return [Caption(str(n), "test", column, "en", 0, text, "") for n, text in enumerate(texts)]

    firsts, seconds = captions("a", ["red", "rot", "green"]), captions("b", ["red", "red", "green"])
    caches = cast("dict[str, HeldOutVectors]", {"tuned": Cached()})
    found = measure_captions(firsts, seconds, caches, smoke.evaluate, seed=3)
    assert found["tuned"]["value"] == 1.0
    assert found["tfidf"]["value"] == pytest.approx(2 / 3, abs=1e-6)  # it has not seen `rot`
    assert found["tuned"]["chance"] == 0.5
