from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageChops, ImageStat

from components.settings.sources import Scenes, SceneTexts, SplitCounts
from components.sources.row import ImageScene
from components.sources.scenes import drawing, german, space
from components.sources.scenes.scene import (
    Scene,
    SceneObject,
    described_facts,
    draw_scenes,
    read_scenes,
    render,
    scene_captions,
    scene_facts,
    scene_labels,
)

COUNTS = SplitCounts(train=300, validation=60, test=60)

objects = st.builds(
    SceneObject,
    place=st.just(""),
    size=st.sampled_from(space.SIZES),
    fill=st.sampled_from(space.FILLS),
    colour=st.sampled_from(space.COLOURS),
    shape=st.sampled_from(space.SHAPES),
)


def _scene(looks: list[SceneObject], places: tuple[str, ...], background: str) -> Scene:
    placed = tuple(
        SceneObject(place, one.size, one.fill, one.colour, one.shape)
        for place, one in zip(places, looks, strict=False)
    )
    return Scene("toy", "train", 0, 1, background, placed)


scenes = st.builds(
    _scene,
    st.lists(objects, min_size=3, max_size=3),
    st.sampled_from([*itertools.combinations(space.PLACES, 2), *itertools.combinations(space.PLACES, 3)]),
    st.sampled_from(space.BACKGROUNDS),
)


@given(scenes)
@settings(max_examples=200, deadline=None)
def test_english_captions_lead_back_to_exactly_their_facts(scene: Scene) -> None:
    captions = scene_captions(scene)
    assert described_facts(captions["short"][0]) == scene_facts(scene, "short")
    for dense in captions["dense"]:
        assert described_facts(dense) == scene_facts(scene, "dense")
        assert described_facts(dense.upper().replace(".", " .")) == scene_facts(scene, "dense")
        assert 50 <= len(dense.split()) <= 60


@given(scenes)
@settings(max_examples=50, deadline=None)
def test_dense_captions_say_the_place_before_the_object_in_reading_order(scene: Scene) -> None:
    first, second = scene_captions(scene)["dense"]
    assert first != second
    for text, names in (
        (first, [one.place for one in scene.objects]),
        (second, [one.place.replace("top", "upper").replace("bottom", "lower") for one in scene.objects]),
    ):
        spots = [spot for name, one in zip(names, scene.objects, strict=True)
                 for spot in (text.index(name), text.index(one.shape, text.index(name)))]  # fmt: skip
        assert spots == sorted(spots)


def test_a_wrong_caption_states_other_facts() -> None:
    scene = next(draw_scenes("toy", "train", 1, 1))
    dense = scene_captions(scene)["dense"][0]
    colour = scene.objects[0].colour
    other = next(word for word in space.COLOURS if word not in dense)
    stated = described_facts(dense.replace(colour, other))
    assert (scene.objects[0].place, "colour", other) in stated
    assert (scene.objects[0].place, "colour", colour) not in stated
    assert described_facts("nothing to see here") == set()


def test_german_has_a_word_of_its_own_for_every_attribute() -> None:
    words = [
        *(noun for noun, _ in german.SHAPES.values()),
        *german.COLOURS.values(),
        *german.COLOURS_WITHOUT_ENDING.values(),
        *german.SIZES.values(),
        *german.FILLS.values(),
        *german.PLACES_IN_GERMAN.values(),
        *german.BACKGROUNDS.values(),
    ]
    assert len(words) == len(set(words)) == 6 + 8 + 2 + 2 + 4 + 4
    looks = [
        SceneObject("", "large", "filled", "red", "diamond"),
        SceneObject("", "small", "outlined", "pink", "cross"),
    ]
    scene = _scene(looks, ("top left", "bottom right"), "white")
    captions = scene_captions(scene)
    assert captions["short_de"] == ["eine große rote Raute und ein kleines rosa Kreuz"]
    assert captions["dense_de"][0].startswith(
        "Das Bild zeigt zwei Formen vor einem schlichten weißen Hintergrund."
    )
    assert "Oben links in der Ecke befindet sich eine große gefüllte rote Raute." in captions["dense_de"][0]
    assert "Unten links in der Ecke bleibt die Fläche ganz leer." in captions["dense_de"][0]


def test_no_scene_of_test_is_in_train_or_validation_of_any_source() -> None:
    seen = {
        split: {
            scene.objects
            for name in ("one", "two")
            for seed in (1, 2)
            for scene in draw_scenes(name, split, 500, seed)
        }
        for split in ("train", "validation", "test")
    }
    for first, second in itertools.combinations(seen.values(), 2):
        assert not first & second
    for split, found in seen.items():
        assert all(space.split_of(one) == split for one in found)


def test_a_scene_is_a_function_of_name_split_number_and_seed() -> None:
    assert list(draw_scenes("toy", "train", 20, 1)) == list(draw_scenes("toy", "train", 30, 1))[:20]
    draws = {
        tuple(scene.objects for scene in draw_scenes(name, split, 5, seed))
        for name, split, seed in itertools.product(("one", "two"), ("train", "test"), (1, 2))
    }
    assert len(draws) == 8
    scene = next(draw_scenes("toy", "train", 1, 1))
    assert render(scene, 64).tobytes() == render(scene, 64).tobytes()
    assert render(scene, 48).size == (48, 48)


def test_colours_are_clearly_different_from_each_other_and_from_backgrounds() -> None:
    colours = [*drawing.COLOUR_RGB.values(), *drawing.BACKGROUND_RGB.values()]
    assert len(colours) == 12
    assert min(math.dist(*pair) for pair in itertools.combinations(colours, 2)) > 4 * drawing.SHADE


@pytest.mark.parametrize("attribute", ["place", "size", "fill", "colour", "shape"])
def test_every_value_of_an_attribute_is_drawn_differently(attribute: str) -> None:
    values = {
        "place": space.PLACES,
        "size": space.SIZES,
        "fill": space.FILLS,
        "colour": space.COLOURS,
        "shape": space.SHAPES,
    }[attribute]
    start = {"place": "top left", "size": "large", "fill": "filled", "colour": "red", "shape": "square"}
    pictures = [
        render(Scene("toy", "train", 0, 1, "white", (SceneObject(**{**start, attribute: value}),)), 64)
        for value in values
    ]
    for first, second in itertools.combinations(pictures, 2):
        assert max(ImageStat.Stat(ImageChops.difference(first, second)).mean) > 2


def test_labels_name_objects_and_background() -> None:
    scene = next(draw_scenes("toy", "test", 1, 1))
    labels = scene_labels(scene)
    assert labels["object"] == [f"{one.colour} {one.shape}" for one in scene.objects]
    assert labels["background"] == [scene.background]


def test_ground_truth_never_goes_with_an_image_that_is_trained_on() -> None:
    source = Scenes(kind="scenes", name="drawn", counts=COUNTS, image_size=64)
    rows = list(read_scenes(source, 7))
    assert [sum(row.split == split for row in rows) for split in ("train", "validation", "test")] == [
        300,
        60,
        60,
    ]
    for row in rows:
        columns = {caption.column for caption in row.captions}
        assert columns == ({"alt"} if row.split == "train" else set(scene_captions_columns()))
        assert isinstance(row.image, ImageScene)
    assert len({row.key for row in rows}) == len(rows)
    texts = list(read_scenes(SceneTexts(kind="scene_texts", name="told", counts=COUNTS), 7))
    assert all({caption.column for caption in row.captions} == set(scene_captions_columns()) for row in texts)
    assert all(row.image is None for row in texts)


def test_alt_text_is_noisy_and_never_empty() -> None:
    drawn = list(draw_scenes("toy", "train", 500, 3))
    alts = [scene_captions(scene)["alt"][0] for scene in drawn]
    assert all(alts)
    named = [sum(one.shape in alt for one in scene.objects) for scene, alt in zip(drawn, alts, strict=True)]
    assert 0.02 < sum(count == 0 for count in named) / 500 < 0.2
    assert sum(count == len(scene.objects) for scene, count in zip(drawn, named, strict=True)) < 400


def scene_captions_columns() -> list[str]:
    return ["alt", "short", "dense", "short_de", "dense_de"]
