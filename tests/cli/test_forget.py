"""Finished results are dropped from the work store by name, and what was fetched only if that is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.cli.forget import forget
from components.errors import ConfigurationError
from components.storage.atomic import write_json
from components.storage.layout import Layout
from components.storage.manifest import write_manifest


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A work store with two arms, and two shards."""
    layout = Layout(tmp_path)
    for piece in ("train_clip/arms/aa", "train_clip/pixels/bb", "train_clip/worked"):
        write_json(tmp_path / piece / "file.json", [1])
        write_manifest(tmp_path / piece)
    for shard in ("00000", "00001"):
        write_json(tmp_path / f"download/shards/{shard}.0" / f"{shard}.tar", [2])
        write_manifest(tmp_path / f"download/shards/{shard}.0")
    write_json(tmp_path / "base_models/pieces/clip/cc/config.json", [3])
    return layout


def test_all_results_of_a_stage_that_fetches_nothing(layout: Layout) -> None:
    lines = forget(layout, "train_clip", [], None)
    assert [line.split(" (")[0] for line in lines] == [
        "forgot arms",
        "forgot pixels",
        "next: dvc repro --force train_clip",
    ]
    work = layout.work("train_clip")
    assert not (work / "arms").exists() and not (work / "pixels").exists() and (work / "worked").exists()


def test_one_result_by_name(layout: Layout) -> None:
    forget(layout, "train_clip", ["arms"], None)
    assert not (layout.work("train_clip") / "arms").exists()
    assert (layout.work("train_clip") / "pixels/bb").exists()
    forget(layout, "base_models", ["clip"], None)
    assert not (layout.work("base_models") / "pieces/clip").exists()


def test_one_shard_of_many(layout: Layout) -> None:
    forget(layout, "download", ["shards"], "00001")
    assert [path.name for path in (layout.work("download") / "shards").iterdir()] == ["00000.0"]
    with pytest.raises(ConfigurationError, match="holds no shard 7"):
        forget(layout, "download", ["shards"], "7")


def test_what_was_fetched_has_to_be_named(layout: Layout) -> None:
    with pytest.raises(ConfigurationError, match=r"download may hold fetched data.*shards \(0.0 MB\)"):
        forget(layout, "download", [], None)
    assert (layout.work("download") / "shards").exists()
    forget(layout, "download", [], None, fetched=True)
    assert not (layout.work("download") / "shards").exists()


def test_what_is_not_there_is_told(layout: Layout) -> None:
    with pytest.raises(ConfigurationError, match="holds no result arm; there are arms, pixels"):
        forget(layout, "train_clip", ["arm"], None)
    with pytest.raises(ConfigurationError, match="no stage training; expected one of download"):
        forget(layout, "training", [], None)
    assert forget(layout, "evaluate", [], None) == [f"{layout.work('evaluate')} holds no result of evaluate"]
