"""The params that `bench.caption_retrieval` measures are whole, and its command finds its data."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import caption_retrieval
from components.running.rows import Rows
from components.settings.params import load_params
from components.storage.layout import Layout
from components.tune_llm.caption_retrieval import tfidf_recalls
from components.tune_llm.caption_rows import read_caption_rows
from tests.conftest import ROOT


def test_a_project_of_the_bench_is_one_that_stages_read(shared: Path, tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    rows = caption_retrieval.caption_rows(shared / "data")
    recipe = YAML(typ="safe").load((ROOT / "bench" / "caption_retrieval.yaml").read_text("utf-8"))
    caption_retrieval.write_project(tmp_path, rows, recipe, 7)
    params = load_params(tmp_path / "params.yaml")
    assert params.seed == 7
    held_out = read_caption_rows(Layout(Path(".work"), tmp_path), "validation", Rows())
    assert len(held_out) == 1000
    recalls = tfidf_recalls(params.tune_llm.caption_retrieval, held_out)
    assert recalls["english"] == pytest.approx(0.32, abs=0.02)  # what counting words alone finds
