from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from components.cli.check_gates import figures_of
from components.errors import ConfigurationError, DataError, GateError
from components.evaluate import stage
from components.settings.environment import Environment
from components.settings.evaluate import RetrievalTask, ZeroShotTask
from components.settings.params import Params
from components.settings.tune_llm import CaptionRetrieval
from components.storage.atomic import read_json, write_json
from components.storage.embeddings import EMBEDDED_CAPTIONS, read_embeddings, write_embeddings
from components.storage.layout import Layout
from components.storage.manifest import read_manifest, write_manifest
from components.storage.shards import read_shard
from components.storage.side_tables import read_captions, write_captions
from components.train_clip import stage as train_clip
from tests.clip_project import COUNTS, make_artifacts, small
from tests.pairs import write_pairs

OUT = Path("artifacts/evaluate")
METRICS = Path("metrics/evaluate.json")
IMAGES = COUNTS["test"]


def _params(smoke: Params) -> Params:
    """Two arms, trained for two steps."""
    params = small(smoke)
    arms = [
        arm.model_copy(update={"steps": 2})
        for arm in params.train_clip.arms
        if arm.name in ("llm2clip", "clip")
    ]
    train = params.train_clip.model_copy(update={"arms": arms})
    return params.model_copy(update={"train_clip": train})


@pytest.fixture
def params(smoke: Params) -> Params:
    return _params(smoke)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from components.settings.params import load_params
    from tests.conftest import ROOT

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_artifacts(Layout(Path(".work")))
        train_clip.run(_params(load_params(ROOT / "presets" / "smoke.yaml")), Environment())
    return folder


@pytest.fixture
def project(workspace: Path, trained: Path) -> Layout:
    shutil.copytree(trained / "artifacts", workspace / "artifacts")
    return Layout(Path(".work"))


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def changed(params: Params, **values: Any) -> Params:
    return params.model_copy(update={"evaluate": params.evaluate.model_copy(update=values)})


def test_every_arm_and_the_base_are_measured(project: Layout, params: Params, env: Environment) -> None:
    stage.run(params, env)
    metrics = read_json(METRICS)
    rejected = metrics.pop("rejected")
    numbers = {name for name, value in _leaves(metrics) if type(value) in (int, float)}
    assert numbers == figures_of(params)  # what `llm2clip check` lets gates of a release name
    assert set(rejected) <= {"not_kept"}
    assert metrics["rows_in"] == metrics["rows_out"] == IMAGES
    assert list(metrics["arms"]) == ["base_clip", "clip", "llm2clip"]
    assert metrics["arms"]["base_clip"]["trained"] is False
    assert metrics["tasks"]["dense"] == {"images": IMAGES, "captions": 2 * IMAGES}
    for arm in metrics["arms"].values():
        for task in ("short", "dense", "german"):
            for recalls in arm["retrieval"][task].values():
                values = [recalls[f"recall_at_{k}"]["value"] for k in (1, 5, 10)]
                assert values == sorted(values)
                assert all(0 <= one["low"] <= one["value"] <= one["high"] <= 1 for one in recalls.values())
    dense = metrics["arms"]["llm2clip"]["retrieval"]["dense"]
    assert dense["text_to_image"]["recall_at_5"]["chance"] == pytest.approx(5 / IMAGES, abs=1e-6)
    assert dense["image_to_text"]["recall_at_1"]["chance"] == pytest.approx(1 / IMAGES, abs=1e-6)
    assert metrics["arms"]["clip"]["truncated_share"]["dense"] > 0
    assert "truncated_share" not in metrics["arms"]["llm2clip"]
    # one direction a word is what TF-IDF counts: it must find most of the paraphrases
    found = metrics["caption_retrieval"]["short_to_dense"]
    assert found["tfidf"]["beats_chance"] and found["tuned"]["beats_chance"]
    with (OUT / "plots" / "recall.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * 3 * 2 * 3  # arms, tasks, directions, ks


def test_two_runs_have_equal_bytes(project: Layout, params: Params, env: Environment) -> None:
    stage.run(params, env)
    first = [(entry.uri, entry.sha256) for entry in read_manifest(OUT)], METRICS.read_bytes()
    shutil.rmtree(".work")
    stage.run(params, env)
    assert ([(entry.uri, entry.sha256) for entry in read_manifest(OUT)], METRICS.read_bytes()) == first


def test_the_order_of_rows_changes_nothing(project: Layout, params: Params, env: Environment) -> None:
    stage.run(params, env)
    figures, report = METRICS.read_bytes(), (OUT / "report.html").read_bytes()
    for path in sorted((project.artifact("download") / "shards").glob("*.tar")):
        write_pairs(path, reversed(list(read_shard(path))))
        captions = project.artifact("recaption") / "captions" / f"{path.stem}.parquet"
        write_captions(captions, reversed(read_captions(captions)))
    for name in ("00000", "00001"):  # and what was in the first shard comes second
        for folder, end in (
            ("download/shards", "tar"),
            ("download/captions", "parquet"),
            ("download/images", "parquet"),
            ("recaption/captions", "parquet"),
            ("audit/kept", "parquet"),
        ):
            path = Path("artifacts") / folder / f"{name}.{end}"
            path.rename(path.with_name(f"{9 - int(name):05d}.{end}"))
    rows = {f"shards/{name}.tar": sum(COUNTS.values()) // 2 for name in ("00008", "00009")}
    write_manifest(project.artifact("download"), rows)
    write_manifest(project.artifact("recaption"))
    write_manifest(project.artifact("audit"))
    stage.run(params, env)
    assert METRICS.read_bytes() == figures
    assert (OUT / "report.html").read_bytes() == report


def test_the_report_needs_nothing_but_itself(project: Layout, params: Params, env: Environment) -> None:
    stage.run(params, env)
    page = (OUT / "report.html").read_text("utf-8")
    without_images = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "data:", page)
    assert "//" not in without_images
    assert "<script" not in page and "<link" not in page and "@import" not in page
    assert set(re.findall(r'(?:src|href)="([^"#]*)', without_images)) == {"data:", ""}
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", without_images))
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for text in ("llm2clip", "base_clip", "random, untrained", "TF-IDF", "zero-shot object", "seed <b>7</b>"):
        assert text in page
    assert len(re.findall(r"<article", page)) == 3 * params.evaluate.gallery_rows


def test_the_report_says_what_arms_of_other_steps_have_in_common(
    project: Layout, params: Params, env: Environment
) -> None:
    told = params.train_clip.model_copy(update={"equal_cost": "equal seconds"})
    stage.run(params.model_copy(update={"train_clip": told}), env)
    assert "equal cost" not in (OUT / "report.html").read_text("utf-8")  # steps are equal

    path = project.artifact("train_clip") / "clip" / "model.json"
    write_json(path, {**read_json(path), "steps": 1234})
    write_manifest(project.artifact("train_clip"))
    stage.run(params.model_copy(update={"train_clip": told}), env)
    page = (OUT / "report.html").read_text("utf-8")
    assert "Compared at equal cost, equal seconds: 1,234 steps of" in page
    stage.run(params, env)
    assert "equal cost" not in (OUT / "report.html").read_text("utf-8")


def test_a_missing_embedding_is_an_error(project: Layout, params: Params, env: Environment) -> None:
    folder = project.artifact("embed_captions") / "tuned"
    embeddings = read_embeddings(folder, ["dense"], Path(".work"))
    lines = embeddings.table.to_pylist()
    gone = next(line for line in lines if line["split"] == "test")
    kept = [line for line in lines if line != gone]
    used = sorted({line["row"] for line in kept})  # vectors that no caption has any more go too
    table = [{**line, "row": used.index(line["row"])} for line in kept]
    vectors = embeddings.vectors[torch.tensor(used)]
    cut = pa.Table.from_pylist(table, schema=EMBEDDED_CAPTIONS)
    for path in (folder / "dense").iterdir():
        path.unlink()
    write_embeddings(folder / "dense", "00000", embeddings.about, cut, vectors)
    write_manifest(folder.parent)
    with pytest.raises(DataError, match="no embedding of 1 captions"):
        stage.run(params, env)
    assert not OUT.exists()


def test_a_missing_image_is_an_error(project: Layout, params: Params, env: Environment) -> None:
    path = project.artifact("download") / "shards" / "00001.tar"
    pairs = list(read_shard(path))[:-1]
    write_pairs(path, pairs)
    rows = {"shards/00000.tar": 18, "shards/00001.tar": len(pairs)}
    write_manifest(project.artifact("download"), rows)
    with pytest.raises(DataError, match="no image for 1 kept rows"):
        stage.run(params, env)


def test_weights_that_are_not_finite_are_an_error(project: Layout, params: Params, env: Environment) -> None:
    path = project.artifact("train_clip") / "llm2clip" / "text_adapter" / "model.safetensors"
    tensors = load_file(path)
    tensors["projection.bias"][0] = float("nan")
    save_file(tensors, path)
    write_manifest(project.artifact("train_clip"))
    with pytest.raises(DataError, match="not finite"):
        stage.run(params, env)


def test_a_failed_audit_stops(project: Layout, params: Params, env: Environment) -> None:
    write_json(project.artifact("audit") / "verdict.json", {"passed": False, "gates": []})
    write_manifest(project.artifact("audit"))
    with pytest.raises(GateError):
        stage.run(params, env)


def test_names_that_no_row_has(project: Layout, params: Params, env: Environment) -> None:
    task = RetrievalTask(name="x", column="short", language="fr")
    with pytest.raises(ConfigurationError, match=r"short in fr, .*alt \(en\), dense \(en\), dense_de \(de\)"):
        stage.run(changed(params, retrieval=[task]), env)
    zero_shot = ZeroShotTask(name="x", label="breed", templates=["{label}"])
    with pytest.raises(ConfigurationError, match=r"label breed.* there are .*object"):
        stage.run(changed(params, zero_shot=[zero_shot]), env)
    pair = CaptionRetrieval(name="x", first="short", second="long")
    with pytest.raises(ConfigurationError, match="no test row has both"):
        stage.run(changed(params, caption_retrieval=[pair]), env)


def test_an_arm_whose_llm_was_not_embedded(project: Layout, params: Params, env: Environment) -> None:
    embed = params.embed_captions.model_copy(update={"llms": ["base"]})
    with pytest.raises(ConfigurationError, match=r"llm2clip needs the embeddings of tuned"):
        stage.run(params.model_copy(update={"embed_captions": embed}), env)


def test_captions_of_several_languages_in_one_column(
    project: Layout, params: Params, env: Environment
) -> None:
    for path in sorted((project.artifact("recaption") / "captions").glob("*.parquet")):
        captions = read_captions(path)
        for place, caption in enumerate(captions):
            if caption.column == "dense" and caption.number == 1:
                captions[place] = replace(caption, language="nl")
        write_captions(path, captions)
    write_manifest(project.artifact("recaption"))
    tasks = [RetrievalTask(name=name, column="dense", language=name) for name in ("en", "nl")]
    stage.run(changed(params, retrieval=tasks, zero_shot=[], gallery_rows=0), env)
    assert read_json(METRICS)["tasks"] == {
        name: {"images": IMAGES, "captions": IMAGES} for name in ("en", "nl")
    }
    page = (OUT / "report.html").read_text("utf-8")
    assert "zero-shot" not in page and "What was found" not in page
