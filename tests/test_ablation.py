"""What a variant of `bench.ablation` changes, and its table."""

from __future__ import annotations

from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.ablation import VARIANTS, changed, listed, table
from components.settings.params import load_params
from tests.conftest import ROOT

LISTED = YAML(typ="safe").load(VARIANTS.read_text("utf-8"))


@pytest.mark.parametrize("preset", LISTED)
def test_each_variant_changes_the_preset(preset: str) -> None:
    params = load_params(ROOT / "presets" / f"{preset}.yaml")
    assert len({variant["name"] for variant in LISTED[preset]}) == len(LISTED[preset])
    seen = []
    for variant in LISTED[preset]:
        own = changed(params, variant)
        assert [arm.name for arm in own.train_clip.arms] == [variant["arm"]]
        assert own.train_clip not in seen
        seen.append(own.train_clip)
        for place, value in variant.get("set", {}).items():
            head, *path = place.split(".")
            found: Any = own.train_clip.arms[0] if head == "arm" else own.train_clip
            for name in path:
                found = getattr(found, name)
            assert found == (value if not hasattr(found, "model_dump") else type(found)(**value))


@pytest.mark.parametrize("place", ["arm.stepz", "steps", "train_clip.adapter.x", "evaluate.recall_at"])
def test_a_param_that_is_not_there_is_named(place: str) -> None:
    params = load_params(ROOT / "presets" / "demo.yaml")
    with pytest.raises(SystemExit, match=f"variant v: no param {place}"):
        changed(params, {"name": "v", "arm": "llm2clip", "set": {place: 1}})
    with pytest.raises(SystemExit, match="no arm nobody"):
        changed(params, {"name": "v", "arm": "nobody"})


def test_variants_are_those_of_the_preset_by_name() -> None:
    names = [variant["name"] for variant in listed(VARIANTS, "demo", None)]
    assert [variant["name"] for variant in listed(VARIANTS, "demo", names[2:0:-1])] == names[1:3]
    with pytest.raises(SystemExit, match="no variants of preset smoke; expected one of demo"):
        listed(VARIANTS, "smoke", None)
    with pytest.raises(SystemExit, match="no variant nothing; expected of llm2clip as in the preset;"):
        listed(VARIANTS, "demo", ["nothing"])


def test_a_table_has_the_mean_of_seeds_and_their_range() -> None:
    def of(name: str, share: float) -> dict[str, Any]:
        recall = {"recall_at": 10, "a/text_to_image": share, "a/image_to_text": 0.5, "mean": share / 2}
        return {"name": name, "steps": 7000, "recall": recall}

    assert table([[of("v", 0.1), of("w", 0.2)], [of("v", 0.3)]]).splitlines() == [
        "| variant | steps | seeds | a R@10 | mean (lowest to highest) |",
        "| --- | --- | --- | --- | --- |",
        "| v | 7,000 | 2 | 20.0 / 50.0 | 10.0 (5.0 to 15.0) |",
        "| w | 7,000 | 1 | 20.0 / 50.0 | 10.0 |",
    ]
