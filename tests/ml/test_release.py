"""What users give a release: one or many, by any sensible type, and what they are told where it is none."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from components.ml.adapter import AdapterConfig, TextAdapter, save_adapter
from components.ml.release import Release, load_release
from components.ml.vision.clip import save_clip
from components.ml.vision.pictures import decode_rgb
from components.ml.vision.towers import save_vision_encoder, vision_encoder_of
from tests.captioned import write_llm
from tests.ml.towers import tiny_model, tiny_tokenizer
from tests.ml.vision.test_pictures import FILES

WIDTHS = {"clip": 8, "siglip": 16, "llm": 8}
TEXTS = ["a red circle", "two blue squares"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of each kind, in one folder as a registry has its versions."""
    root, tokenizer = tmp_path_factory.mktemp("releases"), tiny_tokenizer()
    for name, family in (("clip", "clip_b16"), ("siglip", "siglip")):
        save_clip(tiny_model(family, tokenizer), root / name / "clip")
        tokenizer.save_pretrained(root / name / "clip")
        (root / name / "model.json").write_text(json.dumps({"text": "own", "log_logit_scale": 1.0}))
    write_llm(root / "llm" / "llm", TEXTS)
    encoding = {"attention": "bidirectional", "pooling": "mean", "template": "{text}", "max_tokens": 32}
    (root / "llm" / "encoding.json").write_text(json.dumps(encoding))
    (root / "llm" / "model.json").write_text(json.dumps({"text": "tuned", "log_logit_scale": 1.0}))
    tower = vision_encoder_of(tiny_model("clip_b16", tokenizer), 8)
    save_vision_encoder(tower, root / "llm" / "vision_encoder")
    torch.manual_seed(0)
    save_adapter(TextAdapter(AdapterConfig(32, 8, 1, 2, 0.0, False)), root / "llm" / "text_adapter")
    return root


@pytest.fixture(params=WIDTHS)
def release(request: pytest.FixtureRequest, folders: Path) -> Release:
    return load_release(folders / request.param)


def width_of(release: Release) -> int:
    return release.embed_texts([]).shape[1]


@pytest.mark.parametrize("name", WIDTHS)
def test_nothing_gives_no_row_of_the_right_width(name: str, folders: Path) -> None:
    release = load_release(str(folders / name))
    for rows in (release.embed_texts([]), release.embed_images([]), release.embed_images(iter(()))):
        assert (rows.shape, rows.dtype) == ((0, WIDTHS[name]), torch.float32)


def test_one_text_or_many_in_any_order_of_things(release: Release) -> None:
    rows = release.embed_texts(TEXTS)
    assert rows.shape == (2, width_of(release))
    one = release.embed_texts(TEXTS[0])
    assert one.shape == (1, width_of(release))
    torch.testing.assert_close(one, rows[:1])
    for many in (tuple(TEXTS), iter(TEXTS), np.array(TEXTS), (text for text in TEXTS)):
        torch.testing.assert_close(release.embed_texts(many), rows)


def test_one_picture_or_many_of_all_types(release: Release, tmp_path: Path) -> None:
    data = FILES["jpeg turned"][0]
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    image = Image.open(io.BytesIO(data))
    array = np.asarray(decode_rgb(data))
    given: list[Any] = [str(path), path, data, bytearray(data), image, array]
    rows = release.embed_images(given)
    assert rows.shape == (6, width_of(release))
    torch.testing.assert_close(rows, rows[:1].expand_as(rows))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(6))
    for single in given:
        torch.testing.assert_close(release.embed_images(single), rows[:1])
    for many in (iter(given), tuple(given), np.stack([array] * 6), np.array([str(path)] * 6)):
        torch.testing.assert_close(release.embed_images(many), rows)


def test_a_generator_of_more_pictures_than_a_batch_is_never_held_whole(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.ml.release.BATCH_IMAGES", 2)
    colours = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in range(0, 250, 50)]
    rows = torch.cat([release.embed_images(colour) for colour in colours])
    torch.testing.assert_close(release.embed_images(iter(colours)), rows)


@pytest.mark.parametrize(
    ("given", "kind", "expected"),
    [
        (7, TypeError, "pictures are of type int; expected a path, the bytes of a file, a PIL image"),
        (None, TypeError, "pictures are of type NoneType; expected a path"),
        ({"a.jpg": 1}, TypeError, "pictures are of type dict"),
        ({"a.jpg"}, TypeError, "pictures are of type set"),
        (io.BytesIO(b"x"), TypeError, "pictures are of type BytesIO"),
        (
            [None],
            TypeError,
            r"pictures\[0\]: a picture is of type NoneType; expected a path",
        ),
        (torch.zeros(1, 3, 8, 8), TypeError, r"pictures\[0\]: a picture is of type Tensor"),
        (np.zeros((8, 8, 3)), TypeError, "an array of float64"),
        ([FILES["jpeg"][0], "no.jpg"], FileNotFoundError, r"pictures\[1\]: no\.jpg not found"),
        ("no.jpg", FileNotFoundError, "^no.jpg not found; expected an image file"),
        (b"<html>", ValueError, "6 bytes that are no readable image"),
    ],
)
def test_what_is_no_picture_is_told(release: Release, given: Any, kind: Any, expected: str) -> None:
    with pytest.raises(kind, match=expected):
        release.embed_images(given)


@pytest.mark.parametrize(
    ("given", "kind", "expected"),
    [
        (7, TypeError, "texts are of type int; expected a str or a list of str"),
        (None, TypeError, "texts are of type NoneType; expected a str or a list of str"),
        (b"a cat", TypeError, "texts are of type bytes; expected a str or a list of str"),
        ({"a": 1}, TypeError, "texts are of type dict"),
        (["a", None], TypeError, r"texts\[1\] is of type NoneType; expected a str or a list of str"),
        ([b"a"], TypeError, r"texts\[0\] is of type bytes"),
        ([["a"]], TypeError, r"texts\[0\] is of type list"),
        (["a \ud800 b"], ValueError, r"texts\[0\] holds '\\ud800', half of a surrogate pair"),
    ],
)
def test_what_is_no_text_is_told(release: Release, given: Any, kind: Any, expected: str) -> None:
    with pytest.raises(kind, match=expected):
        release.embed_texts(given)


def _without(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()

    return change


def _holding(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_without("model.json"), "has no model.json; expected a release of this pipeline$"),
        (_holding("model.json", "{"), r"model\.json cannot be read .*expected a release of this pipeline"),
        (_holding("model.json", "{}"), r"model\.json is damaged \(KeyError: 'text'\)"),
        (_holding("model.json", "[]"), r"model\.json is damaged \(TypeError"),
        (_without("encoding.json"), r"encoding\.json cannot be read"),
        (_holding("encoding.json", '{"attention": "causal"}'), r"encoding\.json: .*missing 3 required"),
        (_holding("encoding.json", "[]"), r"encoding\.json: .* must be a mapping"),
    ],
)
def test_a_release_that_is_not_whole_is_told(
    folders: Path, tmp_path: Path, change: Callable[[Path], None], expected: str
) -> None:
    for file in (folders / "llm").rglob("*"):
        if file.is_file():
            copy = tmp_path / file.relative_to(folders / "llm")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(file)
    for name in ("model.json", "encoding.json"):
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes((folders / "llm" / name).read_bytes())
    change(tmp_path)
    with pytest.raises(ValueError, match=expected):
        load_release(tmp_path)


def test_the_folder_and_the_device_are_named(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none not found; expected the folder of a release"):
        load_release(str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"no model\.json; .*: load .*clip, or another of 3 in it"):
        load_release(folders)
    with pytest.raises(ValueError, match=r"model\.json.* cannot be read"):
        load_release(folders / "clip" / "model.json")
    with pytest.raises(ValueError, match="device is 'gpu', which torch cannot use .*; expected cpu, or cuda"):
        load_release(folders / "clip", "gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device is 'cuda:3', which torch cannot use"):
            load_release(folders / "llm", "cuda:3")
    assert load_release(folders / "clip", torch.device("cpu")).embed_texts("a").shape == (1, 8)
