"""The stage on scenes: what it writes, what it drops, and when it stops."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from components.audit import caption_figures
from components.audit.curation import near_images
from components.audit.stage import run
from components.errors import ConfigurationError, DataError, GateError, Stopped
from components.running.progress import Progress
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import read_json
from components.storage.layout import Layout
from components.storage.manifest import read_manifest, write_manifest
from components.storage.scores import SCORES
from components.storage.shards import Pair
from components.storage.side_tables import Caption, read_keys, write_table
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
        GateError, match=r"leaked is 0\.1 of 10 test images; audit\.max_leaked_share"
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


def with_audit(smoke: Params, **changes: Any) -> Params:
    tree = smoke.model_dump()
    tree["audit"] |= changes
    return Params.model_validate(tree)


def dropped_rows(layout: Layout) -> dict[str, dict[str, Any]]:
    files = sorted((layout.artifact("audit") / "dropped").iterdir())
    return {row["key"]: row for path in files for row in pq.read_table(path).to_pylist()}


CURATION: dict[str, Any] = {
    "heads": [
        {"name": "dark", "path": "head.safetensors", "keeps": "at_most", "limit": 0.05, "splits": ["train"]}
    ],
    "similarity": {"columns": ["alt"], "min_similarity": 0.5, "best_share": None},
    "near_images": {"min_cosine": 0.995, "max_rows": 100},
    "near_captions": None,
}


def write_head(inputs: str = "inputs/demo", width: int = 192) -> None:
    weight = torch.zeros(1, width)
    weight[0, 0] = 1.0
    save_file({"weight": weight, "bias": torch.zeros(1)}, f"{inputs}/head.safetensors")


def similarity_of(number: int) -> float | None:
    return {3: None, 5: 0.4, 6: float("nan")}.get(number, 0.6)


def test_curation_drops_with_a_reason_each_and_the_account_balances(
    smoke: Params, env: Environment, make_data: Make, scene_pairs: Rows
) -> None:
    planted = [
        again(scene_pairs[10], "zz_copy", "train", quality=80),
        again(scene_pairs[-1], "leak", "train"),
    ]
    layout = make_data([*scene_pairs, *planted], similarity=similarity_of)
    write_head()
    lenient = {"max_leaked_share": 1.0, "max_near_duplicate_share": 1.0}
    run(with_audit(smoke, **lenient, curation=CURATION), env)
    dropped, metrics = dropped_rows(layout), read_json(layout.metrics("audit"))
    rows = [pair for pair, _ in [*scene_pairs, *planted]]
    assert kept_keys(layout) == {pair.key for pair in rows} - dropped.keys()
    assert metrics["rows_in"] == len(rows) + TEXTS == metrics["rows_out"] + sum(metrics["rejected"].values())
    assert metrics["rejected"]["leaked"] == 1
    assert sum(metrics["rejected"].values()) == len(dropped)
    assert {row["reason"] for row in dropped.values()} == metrics["rejected"].keys()
    assert metrics["rejected"].keys() == {"dark", "leaked", "near_image", "no_similarity", "similarity"}
    for row in dropped.values():
        if row["reason"] == "dark":
            assert row["value"] > 0.05
        if row["reason"] == "similarity":
            assert row["value"] == pytest.approx(0.4)
        if row["reason"] == "near_image":
            assert row["value"] >= 0.995
            assert row["like"] in kept_keys(layout)
    assert {key for key in dropped if "train" not in key} == {"zz_copy", "leak"}  # none of validation or test
    page = (layout.artifact("audit") / "report.html").read_text()
    assert f"leaked 1, near_image {metrics['rejected']['near_image']}" in page
    assert "similarity of alt" in page
    assert "dropped: " in (layout.artifact("audit") / "gallery.html").read_text()


def test_a_filter_that_leaves_too_little_stops(
    smoke: Params, env: Environment, make_data: Make, scene_pairs: Rows
) -> None:
    layout = make_data(scene_pairs, similarity=similarity_of)
    best = {"columns": ["alt"], "min_similarity": None, "best_share": 0.1}
    nothing: dict[str, Any] = {"heads": [], "near_images": None, "near_captions": None, "similarity": best}
    with pytest.raises(GateError, match=r"kept_train is 2 of 2 train images that go on; audit\.min_rows"):
        run(with_audit(smoke, curation=nothing), env)
    assert not layout.artifact("audit").exists()


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (Progress, "advance", 2),
        pytest.param(caption_figures, "pieces_by_content", 1, marks=pytest.mark.integration),
        pytest.param(near_images, "near_of_block", 2, marks=pytest.mark.integration),
    ],
)
def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(
    smoke: Params,
    env: Environment,
    make_data: Make,
    scene_pairs: Rows,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    call: int,
) -> None:
    monkeypatch.setattr(near_images, "BLOCK", 4)
    layout = make_data(scene_pairs, similarity=similarity_of)
    write_head()
    params = with_audit(smoke, curation=CURATION)
    run(params, Environment(work_store=layout.work_store / "undisturbed"))
    expected, metrics = read_manifest(layout.artifact("audit")), read_json(layout.metrics("audit"))
    calls: list[int] = []
    function = getattr(module, name)  # the first advances are those of fingerprints, shard by shard

    def killed(*arguments: Any) -> Any:  # noqa: ANN401 - as the function
        calls.append(1)
        if len(calls) == call:
            raise Stopped
        return function(*arguments)

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(module, name, killed)
        run(params, env)
    assert read_manifest(layout.artifact("audit")) == expected  # the last good one is untouched
    run(params, env)
    assert read_manifest(layout.artifact("audit")) == expected
    assert read_json(layout.metrics("audit")) == metrics


@pytest.mark.parametrize(
    ("curation", "fault", "message"),
    [
        ({"near_images": CURATION["near_images"]}, ConfigurationError, "has no image embeddings"),
        (
            {"similarity": CURATION["similarity"]},
            ConfigurationError,
            "names column alt, which has no",
        ),
        ({"heads": CURATION["heads"]}, ConfigurationError, "has no image embeddings"),
    ],
)
def test_curation_without_scores_is_refused(
    smoke: Params,
    env: Environment,
    make_data: Make,
    scene_pairs: Rows,
    curation: dict[str, Any],
    fault: type[Exception],
    message: str,
) -> None:
    layout = make_data(scene_pairs)
    write_head()
    nothing: dict[str, Any] = {"heads": [], "similarity": None, "near_images": None, "near_captions": None}
    with pytest.raises(fault, match=message):
        run(with_audit(smoke, curation={**nothing, **curation}), env)
    assert not layout.artifact("audit").exists()


def test_scores_that_say_nothing_are_never_fine(
    smoke: Params, env: Environment, make_data: Make, scene_pairs: Rows
) -> None:
    """All NaN: nothing can be curated by it, and drift against it is unknown (docs/faults.md P20)."""
    layout = make_data(scene_pairs, similarity=lambda _number: 0.5)
    run(smoke, env)
    os.replace(layout.artifact("audit") / "summary.json", "inputs/demo/summary.json")
    reference = {
        "summary": "summary.json",
        "features": ["similarity of alt", "words of alt (en)"],
        "max_psi": 0.2,
    }
    make_data(scene_pairs, similarity=lambda _number: float("nan"))
    with pytest.raises(GateError, match=r"drift of similarity of alt is unknown \(too little data\)"):
        run(with_audit(smoke, reference=reference), env)
    verdict = read_json(layout.work("audit") / "failed" / "verdict.json")
    assert verdict["unknown"] == ["drift of similarity of alt"]
    assert {gate["name"]: gate["verdict"] for gate in verdict["gates"]}[
        "drift of words of alt (en)"
    ] == "passed"
    nothing = {"heads": [], "near_images": None, "near_captions": None, "similarity": CURATION["similarity"]}
    with pytest.raises(ConfigurationError, match="there are none"):
        run(with_audit(smoke, curation=nothing), env)


def test_a_drifted_run_stops_and_an_equal_one_does_not(
    smoke: Params, env: Environment, make_data: Make, scene_pairs: Rows
) -> None:
    layout = make_data(scene_pairs, similarity=lambda number: 0.01 * number)
    run(smoke, env)
    summary = layout.artifact("audit") / "summary.json"
    (layout.inputs("demo") / "summary.json").write_bytes(summary.read_bytes())
    reference = {"summary": "summary.json", "features": ["similarity of alt"], "max_psi": 0.2}
    run(with_audit(smoke, reference=reference), env)
    make_data(scene_pairs, similarity=lambda number: 0.3 + 0.01 * number)
    with pytest.raises(
        GateError,
        match=r"drift of similarity of alt is \d.* such as 'similarity of alt'",
    ):
        run(with_audit(smoke, reference=reference), env)


def test_an_empty_table_and_a_split_without_rows_are_unknown_and_no_crash(
    smoke: Params, env: Environment, make_data: Make, scene_pairs: Rows
) -> None:
    layout = make_data([row for row in scene_pairs if row[0].metadata["split"] != "test"])
    recaption = layout.artifact("recaption")
    for path in (recaption / "captions").iterdir():
        write_table(recaption / "scores" / path.name, SCORES.empty_table())
    write_manifest(recaption)
    with pytest.raises(GateError, match=r"rows_test is unknown \(too little data\)"):
        run(smoke, env)
    run(with_audit(smoke, unknown_passes=True), env)
    verdict = read_json(layout.artifact("audit") / "verdict.json")
    assert verdict["unknown"] == ["rows_test", "leaked", "caption_overlap"]
    features = read_json(layout.artifact("audit") / "summary.json")["features"]
    assert not [name for name in features if name.startswith("similarity")]


def test_a_damaged_table_of_scores_is_refused(
    smoke: Params, env: Environment, make_data: Make, scene_pairs: Rows
) -> None:
    layout = make_data(scene_pairs, similarity=similarity_of)
    path = layout.artifact("recaption") / "scores" / "00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged"):
        run(smoke, env)
    write_table(path, pa.table({"key": ["a"], "similarity": [0.5]}))
    write_manifest(layout.artifact("recaption"))
    with pytest.raises(DataError, match="has columns key, similarity; expected key, column, number"):
        run(smoke, env)
