"""What decides a training run names the base model and every file that captions are read from."""

from __future__ import annotations

import pytest

from components.settings.params import Params
from components.storage.layout import Layout
from components.storage.manifest import listed, write_manifest
from components.storage.side_tables import read_captions, read_keys, write_captions, write_keys
from components.tune_llm.training_data import TrainingData


def test_another_base_model_is_another_run(layout: Layout, smoke: Params) -> None:
    before = TrainingData(smoke, layout).decided_by
    config = layout.artifact("base_models") / "llm" / "config.json"
    config.write_text(config.read_text("utf-8") + "\n", "utf-8")
    write_manifest(layout.artifact("base_models"))
    after = TrainingData(smoke, layout).decided_by
    assert {name for name, value in after.items() if value != before[name]} == {"llm"}


@pytest.mark.parametrize(
    ("stage", "file"),
    [
        ("download", "texts/00000.parquet"),
        ("recaption", "captions/00000.parquet"),
        ("audit", "kept/00000.parquet"),
    ],
)
def test_other_captions_or_other_kept_ones_are_another_run(
    layout: Layout, smoke: Params, stage: str, file: str
) -> None:
    before = TrainingData(smoke, layout).decided_by
    folder = layout.artifact(stage)
    if stage == "audit":
        write_keys(folder / file, sorted(read_keys(folder / file))[1:])
    else:
        write_captions(folder / file, read_captions(folder / file)[1:])
    write_manifest(folder, {entry.path: entry.rows for entry in listed(folder) if entry.rows})
    after = TrainingData(smoke, layout).decided_by
    assert {name for name, value in after.items() if value != before[name]} == {"data"}
