"""COCO's captions files and Karpathy's dataset files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.errors import ConfigurationError, DataError
from components.settings.sources import Coco, Karpathy
from components.sources.rows import ImageFile, ImageUrl, Rejection, Row
from components.sources.values import normal_key
from tests.sources.reading import COLUMNS, columns, good, read, told

SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}
URL = "http://images.cocodataset.org/"


def coco(**changes: Any) -> Coco:
    fields: dict[str, Any] = {
        "kind": "coco", "name": "coco", "path": "captions.json", "sha256": None, "split": "train",
        "images": None, "url_field": "coco_url", "captions": COLUMNS, "limit": None, "weight": None,
    }  # fmt: skip
    return Coco(**{**fields, **changes})


def karpathy(**changes: Any) -> Karpathy:
    fields: dict[str, Any] = {
        "kind": "karpathy", "name": "k", "path": "dataset.json", "sha256": None, "splits": SPLITS,
        "images": "pictures", "url_prefix": None, "captions": columns("raw"), "limit": None, "weight": None,
    }  # fmt: skip
    return Karpathy(**{**fields, **changes})


def annotated(folder: Path) -> dict[str, Any]:
    """Write a file of three images whose captions stand in mixed order, and the folder of images."""
    (folder / "pictures").mkdir()
    images = [
        {"id": number, "file_name": f"{number:012d}.jpg", "coco_url": f"{URL}{number}.jpg", "license": 3}
        for number in (9, 139, 25)
    ]
    said = [(25, "a giraffe"), (9, "a meal"), (25, "two\ngiraffes"), (9, "broccoli \u2028 on a plate")]
    annotations = [{"id": n, "image_id": image, "caption": text} for n, (image, text) in enumerate(said)]
    tree: dict[str, Any] = {"info": {}, "images": images, "annotations": annotations}
    (folder / "captions.json").write_text(json.dumps(tree))
    return tree


def test_coco_s_captions_are_grouped_by_image(tmp_path: Path) -> None:
    annotated(tmp_path)
    rows = read(coco(), tmp_path)
    assert [row.key for row in rows] == ["coco_9", "coco_139", "coco_25"]
    assert told(rows)[1] == "empty_caption @ captions.json image 139"
    first, last = (row for row in rows if isinstance(row, Row))
    assert (first.split, first.image) == ("train", ImageUrl(f"{URL}9.jpg"))
    assert [(one.number, one.text) for one in first.captions] == [
        (0, "a meal"),
        (1, "broccoli on a plate"),
    ]
    assert [one.text for one in last.captions] == ["a giraffe", "two giraffes"]
    in_folder = read(coco(images="pictures", url_field=None), tmp_path)[0]
    assert isinstance(in_folder, Row)
    assert in_folder.image == ImageFile(tmp_path / "pictures" / "000000000009.jpg", "000000000009.jpg")
    assert [row.key for row in read(coco(limit=2), tmp_path)] == ["coco_9", "coco_139"]


def test_no_annotation_is_lost_in_silence(tmp_path: Path) -> None:
    tree = annotated(tmp_path)
    tree["annotations"] += [{"id": 77, "image_id": 8, "caption": "of no image"}, {"id": 78, "caption": "x"}]
    tree["images"] += [{"file_name": "x.jpg"}, {"id": 30, "file_name": "../x.jpg", "coco_url": ""}]
    tree["annotations"] += [{"id": 79, "image_id": 30, "caption": "half \ud800 a pair"}]
    (tmp_path / "captions.json").write_text(json.dumps(tree))
    assert [(row.reason, row.key) for row in read(coco(), tmp_path) if isinstance(row, Rejection)] == [
        ("empty_caption", "coco_139"),
        ("no_url", "coco_"),
        ("no_url", "coco_30"),
        ("no_such_image", "coco_8"),
    ]
    reasons = told(read(coco(images="pictures", url_field=None), tmp_path))
    assert reasons[3:5] == [
        "bad_key @ captions.json image ",
        "path_outside_folder @ captions.json image 30",
    ]
    tree["images"][4]["file_name"] = "30.jpg"
    (tmp_path / "captions.json").write_text(json.dumps(tree))
    reasons = told(read(coco(images="pictures", url_field=None), tmp_path))
    assert reasons[4] == "lone_surrogate @ captions.json image 30"


def test_what_is_no_object_or_has_no_id_costs_itself(tmp_path: Path) -> None:
    tree = annotated(tmp_path)
    tree["images"][1:2] = [None, 7, {"coco_url": URL}, {"coco_url": URL}]
    tree["annotations"] += [None, ["x"], {"caption": "of none"}]
    (tmp_path / "captions.json").write_text(json.dumps(tree))
    rows = [one.partition(" @")[0] for one in told(read(coco(), tmp_path))]
    assert rows == ["a meal", "no_url", "no_url", "bad_key", "bad_key", "a giraffe"]
    tree["images"] = [{"filename": "1.jpg", "split": "train", "sentences": [None, {"raw": "x"}]}, "2.jpg"]
    (tmp_path / "dataset.json").write_text(json.dumps(tree))
    assert [one.partition(" @")[0] for one in told(read(karpathy(), tmp_path))] == ["x", "unknown_split"]


def test_what_cannot_be_written_in_utf_8_is_rejected_and_replaced(tmp_path: Path) -> None:
    tree = annotated(tmp_path)
    tree["images"][0] |= {"id": "9\ud800", "coco_url": "http://a/\ud800.jpg"}
    tree["annotations"][1]["image_id"] = "9\ud800"
    (tmp_path / "captions.json").write_text(json.dumps(tree))
    row = read(coco(), tmp_path)[0]
    assert isinstance(row, Rejection)
    assert row.reason == "lone_surrogate"
    assert all(text.encode() for text in (row.key, row.where, row.url))


def test_karpathy_s_splits_and_sentences(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    images = [
        {"filepath": "train2014", "filename": "COCO_train2014_1.jpg", "split": "train"},
        {"filepath": "val2014", "filename": "COCO_val2014_2.jpg", "split": "restval"},
        {"filename": "3 4.jpg", "split": "val"},
        {"filename": "5.jpg", "split": "test"},
        {"filename": "6.jpg", "split": "extra"},
        {"split": "train"},
    ]
    for number, image in enumerate(images):
        image["sentences"] = [  # type: ignore[assignment]
            {"raw": f"{number} {text}", "tokens": [text]} for text in ("first", "second")
        ]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    rows = read(karpathy(), tmp_path)
    assert [(row.key, row.split) for row in rows] == [
        (normal_key("k_COCO_train2014_1"), "train"), (normal_key("k_COCO_val2014_2"), "train"),
        (normal_key("k_3 4"), "validation"),
        ("k_5", "test"), ("k_6", ""), ("k_", "train"),
    ]  # fmt: skip
    assert told(rows)[4:] == ["unknown_split @ dataset.json image 4", "no_image_name @ dataset.json image 5"]
    assert isinstance(rows[1], Row)
    assert [one.text for one in rows[1].captions] == ["1 first", "1 second"]
    name = "val2014/COCO_val2014_2.jpg"
    assert rows[1].image == ImageFile(tmp_path / "pictures" / name, name)
    at_url = read(karpathy(images=None, url_prefix=URL), tmp_path)
    assert [row.image for row in at_url if isinstance(row, Row)][1:3] == [
        ImageUrl(f"{URL}{name}"),
        ImageUrl(f"{URL}3%204.jpg"),
    ]
    assert told(at_url)[5] == "no_url @ dataset.json image 5"
    left_out = karpathy(splits={**SPLITS, "restval": None, "extra": None}, limit=3)
    assert [row.key for row in good(read(left_out, tmp_path))] == [
        normal_key("k_COCO_train2014_1"),
        normal_key("k_3 4"),
        "k_5",
    ]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ('{"images": [{"id": 1}], "annotations": [{"image_id": 1, "capt', DataError, "is no whole JSON"),
        ('{"images": [], "annotations": []}', DataError, "has no images; expected at least one"),
        ("[" * 100_000, DataError, "is no whole JSON"),
        (b"\xff\xfe[]", DataError, "is no whole JSON in UTF-8"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            DataError,
            "is a Git LFS pointer inside; expected JSON",
        ),
        (
            b"\x1f\x8b\x08",
            DataError,
            "is gzip inside; expected JSON; it is compressed: unpack it with gunzip",
        ),
        ("[]", ConfigurationError, "has no list images of objects: expected coco's format"),
        ('{"images": [7]}', ConfigurationError, "it has images: expected coco's format"),
        (
            '{"images": [{"id": 1}], "annotations": [{"image_id": 1, "bbox": [1, 2]}]}',
            ConfigurationError,
            "no annotation has a field caption; their fields are bbox, image_id",
        ),
        (
            '{"images": [{"id": 1}, {"id": 1}], "annotations": [{"image_id": 1, "caption": "x"}]}',
            DataError,
            "has two images of id 1",
        ),
    ],
)
def test_a_file_of_another_kind_stops(
    tmp_path: Path, content: str | bytes, error: type[Exception], message: str
) -> None:
    (tmp_path / "captions.json").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(error, match=message):
        read(coco(), tmp_path)


def test_what_is_missing_or_changed_stops(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="captions.json not found"):
        read(coco(), tmp_path)
    annotated(tmp_path)
    with pytest.raises(ConfigurationError, match="photos is no folder; sources.coco.images"):
        read(coco(images="photos", url_field=None), tmp_path)
    with pytest.raises(DataError, match="params pin"):
        read(coco(sha256="0" * 64), tmp_path)
    with pytest.raises(ConfigurationError, match="no sentence has a field raw"):
        read(karpathy(path="captions.json"), tmp_path)
    (tmp_path / "more.json").touch()
    with pytest.raises(ConfigurationError, match="names several files"):
        read(coco(path="*.json"), tmp_path)
    with pytest.raises(ValueError, match="give either images or url_field, .*both are null where names are"):
        coco(images="x", url_field="x")
    with pytest.raises(ValueError, match="give either images or url_prefix"):
        karpathy(images="x", url_prefix="x")


@pytest.mark.parametrize("images", ["pictures", None])
def test_files_that_name_their_folder_are_understood(tmp_path: Path, images: str | None) -> None:
    """Karpathy's `filepath` is val2014, and a folder val2014 may be all there is."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.jpg").touch()
    left_out = {"filename": "9.jpg", "split": "restval", "sentences": [{"raw": "x"}]}
    image = {"filepath": "pictures", "filename": "1.jpg", "split": "val", "sentences": [{"raw": "a cat"}]}
    (tmp_path / "dataset.json").write_text(json.dumps({"images": [left_out, image]}))
    coco_image = {"id": 1, "file_name": "pictures/1.jpg"}
    annotations = [{"image_id": 1, "caption": "a cat"}]
    (tmp_path / "captions.json").write_text(json.dumps({"images": [coco_image], "annotations": annotations}))
    for source in (
        karpathy(images=images, splits={"val": "test", "restval": None}),
        coco(images=images, url_field=None),
    ):
        (row,) = good(read(source, tmp_path))
        assert isinstance(row.image, ImageFile)
        assert row.image.path == tmp_path.resolve() / "pictures" / "1.jpg"
