"""A model from a bucket: its weights and words come, and only if they are the pinned ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import boto3
import pytest

from components.base_models.fetched import check_llm, check_text_encoder, fetch
from components.base_models.from_bucket import pin_of
from components.base_models.model_builder import ModelBuilder
from components.errors import ConfigurationError
from components.running.rows import Rows
from components.settings.base_models import BucketModel
from components.storage.atomic import read_json, sha256_of
from components.storage.buckets.s3 import S3Bucket
from tests.base_models.models import write_llama
from tests.base_models.test_text_encoders import write_encoder

PREFIX = "models/mine"


@pytest.fixture
def builder(tmp_path: Path) -> ModelBuilder:
    return ModelBuilder(tmp_path / "work", tmp_path / "inputs", 7, "cpu", 10, Rows())


def uploaded(model: Path, bucket: str, *names: str) -> BucketModel:
    """Put a model's files into a bucket; return it pinned to those of these suffixes and names."""
    store = boto3.resource("s3").Bucket(bucket)
    digests = {}
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        name = path.relative_to(model).as_posix()
        store.upload_file(str(path), f"{PREFIX}/{name}")
        if name.endswith((".json", ".safetensors")) and (name in names or "/" not in name):
            digests[name] = sha256_of(path)
    return BucketModel(kind="bucket", uri=f"s3://{bucket}/{PREFIX}", sha256=pin_of(digests))


def test_the_pin_is_what_sha256sum_prints(tmp_path: Path) -> None:
    write_llama(tmp_path)
    digests = {path.name: sha256_of(path) for path in tmp_path.iterdir()}
    pipe = "LC_ALL=C sha256sum * | LC_ALL=C sort | sha256sum"
    said = subprocess.run(pipe, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)  # noqa: S602
    assert said.stdout.split()[0] == pin_of(digests)


def test_weights_and_words_come_once(
    builder: ModelBuilder, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_llama(tmp_path / "made")
    (source / "pytorch_model.bin").write_bytes(b"a pickle")
    (source / "deeper").mkdir()
    (source / "deeper" / "config.json").write_text("{}")
    (source / "consolidated.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    section = uploaded(source, s3)
    folder = fetch(section, "llm", check_llm, builder)
    assert {path.name for path in folder.iterdir()} == {
        *(path.name for path in source.iterdir() if path.suffix == ".json"),
        "model.safetensors",
        "about.json",
        "manifest.json",
    }
    assert read_json(folder / "about.json")["uri"] == f"s3://{s3}/{PREFIX}"
    assert not list((builder.work / "brought").iterdir())
    monkeypatch.setattr("components.storage.buckets.s3.S3Bucket", None)  # it would not be asked again
    assert fetch(section, "llm", check_llm, builder) == folder


def test_another_model_than_the_pinned_one_is_refused(builder: ModelBuilder, tmp_path: Path, s3: str) -> None:
    section = uploaded(write_llama(tmp_path / "made"), s3)
    changed = boto3.resource("s3").Object(s3, f"{PREFIX}/config.json")
    before = changed.get()["Body"].read()
    changed.put(Body=before + b" ")
    with pytest.raises(ConfigurationError, match=rf"{PREFIX} holds 5 files .*expected {section.sha256}"):
        fetch(section, "llm", check_llm, builder)
    changed.put(Body=before)  # what was brought before is not taken for this one
    assert fetch(section, "llm", check_llm, builder).is_dir()


def test_files_that_came_before_a_kill_are_not_asked_for_again(
    builder: ModelBuilder, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = uploaded(write_llama(tmp_path / "made"), s3)
    asked: list[str] = []
    download = S3Bucket.download_file

    def killed(self: S3Bucket, name: str, path: Path, digest: str | None) -> None:
        asked.append(name)
        if asked.count("model.safetensors") == 1 and name == "model.safetensors":
            raise KeyboardInterrupt
        download(self, name, path, digest)

    monkeypatch.setattr(S3Bucket, "download_file", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch(section, "llm", check_llm, builder)
    fetch(section, "llm", check_llm, builder)
    assert asked.count("config.json") == 1
    assert asked.count("model.safetensors") == 2


def test_parts_of_a_sentence_encoder_come(builder: ModelBuilder, tmp_path: Path, s3: str) -> None:
    parts = ("1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors")
    section = uploaded(write_encoder(tmp_path / "made"), s3, *parts, "3_Normalize/config.json")
    folder = fetch(section, "text_encoders/mine", check_text_encoder, builder, with_modules=True)
    assert all((folder / part).is_file() for part in parts)


def test_a_bucket_that_holds_no_model_is_told(builder: ModelBuilder, s3: str) -> None:
    empty = BucketModel(kind="bucket", uri=f"s3://{s3}/nothing", sha256=pin_of({}))
    with pytest.raises(ConfigurationError, match=r"nothing has no config\.json"):
        fetch(empty, "llm", check_llm, builder)
    absent = BucketModel(kind="bucket", uri="s3://another-bucket/x", sha256=pin_of({}))
    with pytest.raises(ConfigurationError, match="there is no such bucket"):
        fetch(absent, "llm", check_llm, builder)
