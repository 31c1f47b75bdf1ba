"""What an earlier version fetched stays fetched: pictures, and captions and vectors of endpoints."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from safetensors.torch import load_file

from components.download.stage import run as download
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import read_json, write_json
from components.storage.code import code_hash
from components.storage.computed import FILE, MAKERS
from components.storage.layout import Layout
from components.storage.shards import pairs_in_use, read_pairs, shards_of
from tests.conftest import ROOT
from tests.old_store import PICTURES, STORE, old_params, run_stages, write_inputs

NOBODY = "http://127.0.0.1:9/v1"  # nothing listens there, nor where the pictures were


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Of the store, which lies in the folder of the process."""
    monkeypatch.chdir(tmp_path)
    with tarfile.open(STORE) as tar:
        tar.extractall(tmp_path, filter="data")
    write_inputs()
    return old_params(ROOT / "presets" / "smoke.yaml")


def test_nothing_is_fetched_again(params: Params) -> None:
    run_stages(params, Environment(caption_endpoint=NOBODY, embedding_endpoint=NOBODY, threads=1))
    assert read_json(Path("metrics/download.json"))["images"]["rows_out"] == PICTURES + 4
    assert read_json(Path("metrics/recaption.json"))["columns"]["far_short"]["rows_out"] == PICTURES
    vectors = Path("artifacts/embed_captions/far/far_short/00000.safetensors")
    assert load_file(vectors)["embeddings"].shape == (PICTURES, 6)


def test_scenes_that_other_code_drew_are_drawn_again_and_no_picture_is_fetched(params: Params) -> None:
    env, layout = Environment(threads=1), Layout(Path(".work"))
    work = layout.work("download")
    download(params, env)
    before, shards = pictures(layout), shards_of(layout.artifact("download"))
    write_json(work / FILE, {"accepted": {code_hash(MAKERS["download"]["scenes"]): "other code"}})
    download(params, env)
    assert pictures(layout) == before and len(before) == PICTURES + 4
    assert shards_of(layout.artifact("download"))[0] == shards[0]  # written once
    (entry,) = shards_of(work / "shards" / "00001")
    again = [pair.key for pair in read_pairs(work / "shards" / "00001", entry, work)]
    assert len(again) == 4 and all(key.startswith("scenes_") for key in again)


def pictures(layout: Layout) -> dict[str, bytes]:
    download, work = layout.artifact("download"), layout.work("download")
    pairs = (pair for shard in shards_of(download) for pair in pairs_in_use(download, shard, work))
    return {pair.key: pair.jpeg for pair in pairs}
