"""The presets for published data: sources read the published columns, and each column they name is there."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.settings.params import Params, load_params
from components.settings.recaption import ColumnsCaptioner
from components.sources.rows import Row, read_rows
from tests.project import ROOT

NAMES = ["cc3m", "cc3m_cc12m", "full"]
MLLMS = ("IB", "SV", "LLA")
DREAMLIP = ["raw_caption", *(f"{kind}{of}_captions" for of in MLLMS for kind in ("short", "long"))]
SPLITS = {"flickr30k": ["train", "val", "test"], "coco": ["train", "restval", "val", "test"]}


@pytest.fixture(params=NAMES)
def params(request: pytest.FixtureRequest) -> Params:
    return load_params(ROOT / "presets" / f"{request.param}.yaml")


def write_inputs(folder: Path) -> None:
    """Write one row of each published list."""
    for name in ("cc3m", "cc12m", "yfcc15m"):
        with (folder / f"{name}_3long_3short_1raw_captions_url.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([["Image Path", *DREAMLIP], [f"http://a/{name}.jpg", *DREAMLIP]])
    (folder / "recap_datacomp").mkdir()
    row = {"url": "http://a/1.jpg", "re_caption": "a long one", "org_caption": "alt", "sha256": 64 * "a"}
    pq.write_table(pa.Table.from_pylist([row]), folder / "recap_datacomp" / "train-00000-of-03550.parquet")
    for name, splits in SPLITS.items():
        sentences = [{"raw": f"caption {number}"} for number in range(5)]
        images = [{"filename": f"{split}.jpg", "split": split, "sentences": sentences} for split in splits]
        (folder / f"dataset_{name}.json").write_text(json.dumps({"images": images}))
    for name in ("flickr30k-images", "coco"):
        (folder / name).mkdir()


def columns_by_split(params: Params, inputs: Path) -> dict[str, set[str]]:
    """Return the columns that images of a split have after recaption."""
    found: dict[str, set[str]] = defaultdict(set)
    for source in params.download.sources:
        for row in read_rows(source, inputs, params.seed):
            assert isinstance(row, Row), row
            found[row.split] |= {caption.column for caption in row.captions}
    for captioner in params.recaption.captioners:
        assert isinstance(captioner, ColumnsCaptioner)
        for take in captioner.columns:
            for split in take.splits:
                assert take.source in found[split]
                found[split].add(take.column)
    return found


def test_every_column_is_there(params: Params, tmp_path: Path) -> None:
    write_inputs(tmp_path)
    there = columns_by_split(params, tmp_path)
    assert there["train"] == {"raw", "mllm_short", "mllm_long", "short", "dense"}
    assert set(params.train_clip.caption_mix) <= there["train"]
    pairs = [pair for phase in params.tune_llm.phases for pair in phase.pairs]
    assert {name for pair in pairs for name in (pair.first, pair.second)} <= there["train"]
    for task in params.tune_llm.caption_retrieval:
        assert {task.first, task.second} <= there["validation"]
    for task in params.evaluate.caption_retrieval:
        assert {task.first, task.second} <= there["test"]
    assert {task.column for task in params.evaluate.retrieval} <= there["test"]


def test_only_train_learns_from_the_web(params: Params, tmp_path: Path) -> None:
    write_inputs(tmp_path)
    splits: dict[str, Counter[str]] = defaultdict(Counter)
    for source in params.download.sources:
        splits[source.name].update(row.split for row in read_rows(source, tmp_path, params.seed))
    for name, counts in splits.items():
        expected = {"validation", "test"} if name in SPLITS else {"train"}
        assert counts.keys() == expected, name


def test_methods_values_are_kept(params: Params) -> None:
    tuned, trained = params.tune_llm, params.train_clip
    assert tuned.lora and (tuned.lora.rank, tuned.lora.alpha, tuned.lora.dropout) == (16, 32, 0.05)
    assert (tuned.temperature, tuned.weight_decay, tuned.encoding.max_tokens) == (0.02, 0.0, 512)
    assert (trained.projection_dim, trained.layer_decay, trained.weight_decay) == (1280, 0.85, 0.05)
    assert (trained.max_gradient_norm, trained.warmup_steps) == (5.0, 0)
    assert {arm.logit_scale.maximum for arm in trained.arms} == {100.0}
    assert {arm.vision_learning_rate for arm in trained.arms} == {1e-5}
    assert trained.caption_mix == {"raw": 0.5, "dense": 0.5}
