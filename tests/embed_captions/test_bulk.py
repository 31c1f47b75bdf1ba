"""Bulk mode: vectors in a bucket, named by their content; the same embeddings, and nothing wrong read."""

from __future__ import annotations

import shutil
from pathlib import Path

import boto3
import pytest

from components.embed_captions import survey
from components.embed_captions.stage import run
from components.errors import DataError, InfrastructureError
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.embeddings import read_embeddings, read_prompts
from components.storage.layout import Layout
from components.storage.manifest import listed, write_manifest
from components.storage.side_tables import read_captions, write_captions
from tests.embed_captions.test_incremental import asked  # noqa: F401 - a fixture
from tests.embed_captions.test_stage import changed, no_llm, stored, tuned  # noqa: F401 - a fixture
from tests.embedded import rows_of

WORK = Path(".work/reader")


def in_bucket(params: Params, s3: str) -> Params:
    download = params.download.model_copy(update={"data_root": f"s3://{s3}/embeddings/root"})
    return params.model_copy(update={"download": download})


def test_the_same_embeddings_wherever_they_are(
    tuned: Layout,  # noqa: F811
    smoke: Params,
    env: Environment,
    s3: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = changed(smoke, llms=["tuned"])
    run(params, env)
    artifact = tuned.artifact("embed_captions")
    here = {entry.path: entry.sha256 for entry in listed(artifact)}
    before = stored(tuned)
    expected, prompts = (
        read_embeddings(artifact / "tuned", ["dense"], WORK),
        read_prompts(artifact / "tuned", WORK),
    )
    no_llm(monkeypatch)  # what is there goes to the bucket as it is
    run(in_bucket(params, s3), env)
    assert {entry.path: entry.sha256 for entry in listed(artifact)} == here
    assert not [name for name in stored(tuned) if name.endswith(".safetensors")]
    names = [item.key for item in boto3.resource("s3").Bucket(s3).objects.all()]
    vectors = [entry for entry in listed(artifact) if entry.is_vectors]
    assert {entry.uri for entry in vectors} <= {f"s3://{s3}/{name}" for name in names}
    found = read_embeddings(artifact / "tuned", ["dense"], WORK)
    assert (found.vectors.whole() == expected.vectors.whole()).all() and found.table == expected.table
    assert (read_prompts(artifact / "tuned", WORK).vectors.whole() == prompts.vectors.whole()).all()
    assert not [path for path in WORK.rglob("*") if path.is_file()]
    run(params, env)  # and back
    assert stored(tuned) == before


def test_the_disk_holds_what_is_on_its_way_to_the_bucket_alone(
    tuned: Layout,  # noqa: F811
    smoke: Params,
    env: Environment,
    s3: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = changed(smoke, llms=["base", "tuned"])
    usage = shutil.disk_usage(".")
    free = survey.SPARE_BYTES + 25_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    with pytest.raises(InfrastructureError, match="embed_captions needs"):
        run(params, env)
    run(in_bucket(params, s3), env)
    free = survey.SPARE_BYTES + 1_000
    with pytest.raises(InfrastructureError, match="embed_captions needs"):
        run(in_bucket(params, s3), Environment(work_store=Path("from_scratch")))


def test_an_object_that_is_lost_or_another_one_is_refused_and_made_again(
    tuned: Layout,  # noqa: F811
    smoke: Params,
    env: Environment,
    s3: str,
) -> None:
    params = in_bucket(changed(smoke, llms=["tuned"]), s3)
    run(params, env)
    folder = tuned.artifact("embed_captions") / "tuned"
    expected = read_embeddings(folder, ["dense"], WORK).vectors.whole()
    bucket = boto3.resource("s3").Bucket(s3)
    (name,) = [item.key for item in bucket.objects.all() if "tuned.dense.00001-" in item.key]
    data = bytearray(bucket.Object(name).get()["Body"].read())
    data[-2] ^= 1
    bucket.put_object(Key=name, Body=bytes(data))
    with pytest.raises(DataError, match="dvc repro --force embed_captions"):
        read_embeddings(folder, ["dense"], WORK)
    bucket.Object(name).delete()
    with pytest.raises(DataError, match="dvc repro --force embed_captions"):
        read_embeddings(folder, ["dense"], WORK)
    run(params, env)
    assert (read_embeddings(folder, ["dense"], WORK).vectors.whole() == expected).all()


def test_new_captions_take_the_others_from_the_bucket(
    tuned: Layout,  # noqa: F811
    smoke: Params,
    env: Environment,
    s3: str,
    asked: list[str],  # noqa: F811
) -> None:
    params = in_bucket(changed(smoke, llms=["tuned"]), s3)
    run(params, env)
    folder = tuned.artifact("embed_captions") / "tuned"
    expected = read_embeddings(folder, ["dense"], WORK)
    path = tuned.artifact("recaption") / "captions" / "00001.parquet"
    lines = read_captions(path)
    write_captions(path, lines[::-1])
    write_manifest(tuned.artifact("recaption"))
    asked.clear()
    run(params, env)
    assert not asked
    found = read_embeddings(folder, ["dense"], WORK)
    keys = sorted(set(found.table["key"].to_pylist()))
    before, after = expected.vectors.whole(), found.vectors.whole()
    rows = zip(rows_of(expected, "dense", keys), rows_of(found, "dense", keys), strict=True)
    assert all((before[old] == after[new]).all() for old, new in rows)
