"""The stage on scenes: what it writes, what it drops, and when it stops."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.audit.stage import run
from components.faults import GateFault
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import read_json
from components.storage.layout import Layout
from components.storage.manifest import read_manifest
from components.storage.shards import Pair
from components.storage.side_tables import Caption, read_keys
from tests.audit.conftest import TEXTS, jpeg
from tests.conftest import ROOT

Rows = list[tuple[Pair, list[Caption]]]
Make = Callable[..., Layout]


def again(row: tuple[Pair, list[Caption]], key: str, split: str, quality: int | None = None) -> Any:
    """Return a row's image once more under another key and split, re-encoded if a quality is given."""
    pair, captions = row
    data = jpeg(Image.open(BytesIO(pair.jpeg)), quality) if quality else pair.jpeg
    copied = replace(pair, key=key, jpeg=data, metadata={**pair.metadata, "split": split})
    return copied, [replace(caption, key=key, split=split) for caption in captions]


def kept_keys(layout: Layout) -> set[str]:
    return set.union(*(read_keys(path) for path in (layout.artifact("audit") / "kept").iterdir()))


def test_clean_scenes_pass_and_a_leak_stops_without_touching_the_last_good_artifact(
    smoke: Params, env: Environment, make_data: Make, scene_pairs: Rows
) -> None:
    layout = make_data(scene_pairs)
    run(smoke, env)
    folder, work = layout.artifact("audit"), layout.work("audit")
    good = read_manifest(folder)
    assert kept_keys(layout) == {pair.key for pair, _ in scene_pairs}
    assert read_json(folder / "verdict.json")["verdict"] == "passed"
    metrics = read_json(layout.metrics("audit"))
    assert metrics["rows_in"] == metrics["rows_out"] == len(scene_pairs) + TEXTS
    assert metrics["mean_words"]["dense (en)"] > metrics["mean_words"]["short (en)"] > 2
    page = (folder / "report.html").read_text()
    assert "Audit: passed" in page
    assert "words of dense_de (de)" in page
    assert set(read_json(folder / "summary.json")["features"]) >= {"width", "aspect", "words of alt (en)"}
    assert metrics["hosts"]["count"] == 1

    # another process, another order of sets: the same bytes, from fingerprints that are not made again
    pieces = {path: path.stat().st_ino for path in (work / "fingerprints").rglob("*.parquet")}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "77"}
    subprocess.run([sys.executable, "-m", "components", "audit"], check=True, env=environment)
    assert read_manifest(folder) == good
    assert {path: path.stat().st_ino for path in (work / "fingerprints").rglob("*.parquet")} == pieces

    make_data([*scene_pairs, again(scene_pairs[-1], "copy", "train")])
    with pytest.raises(
        GateFault, match=r"leaked is 0\.1 of 10 test images; audit\.max_leaked_share"
    ) as fault:
        run(smoke, env)
    assert str(work / "failed" / "report.html") in str(fault.value)
    assert (work / "failed" / "report.html").is_file()
    assert read_json(work / "failed" / "verdict.json")["failed"] == ["leaked"]
    assert read_manifest(folder) == good


def test_leaked_rows_are_dropped_from_what_is_learned_with_their_reason(
    smoke: Params, env: Environment, make_data: Make, scene_pairs: Rows
) -> None:
    same, alike = scene_pairs[-1], scene_pairs[-2]
    planted = [again(same, "copy", "train"), again(alike, "again", "validation", quality=80)]
    layout = make_data([*scene_pairs, *planted])
    limits = smoke.audit.model_copy(update={"max_leaked_share": 0.5})
    run(smoke.model_copy(update={"audit": limits}), env)
    assert kept_keys(layout) == {pair.key for pair, _ in scene_pairs}
    files = sorted((layout.artifact("audit") / "dropped").iterdir())
    assert [row for path in files for row in pq.read_table(path).to_pylist()] == [
        {"key": "copy", "reason": "leaked", "value": None, "like": same[0].key},
        {"key": "again", "reason": "leaked", "value": None, "like": alike[0].key},
    ]
    metrics = read_json(layout.metrics("audit"))
    assert metrics["rejected"] == {"leaked": 2}
    assert metrics["gates"]["leaked"] == pytest.approx(2 / 10)
