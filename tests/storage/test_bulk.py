"""Shards in a bucket: written once, never used unverified, and never taken for granted."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.retries.standard import ExponentialBackoff

from components.errors import ConfigurationError, DataError, InfrastructureError, PipelineError, Stopped
from components.running.workers import stop_server
from components.storage import bulk
from components.storage.atomic import content_key
from components.storage.bulk import (
    FETCHED,
    MARK,
    SHARDS,
    forget_lost,
    keep_remote,
    local_copy,
    open_data_root,
)
from components.storage.manifest import Entry, folder_key, listed, read_manifest, write_manifest
from components.storage.result_cache import get_or_build, put_files
from components.storage.shards import Pair, read_pairs, shards_of, write_shard
from tests.pairs import put_in_use, write_pairs
from tests.s3_proxy import Exchange, proxy

PAIRS = [Pair(f"key{n}", random.Random(n).randbytes(3000), f"caption {n}", {"n": n}) for n in range(8)]  # noqa: S311
Make = Callable[[], Path]


@pytest.fixture
def root(s3: str) -> str:
    return f"s3://{s3}/some/prefix"


@pytest.fixture
def make_piece(tmp_path: Path) -> Make:
    """Make a piece as download does: a shard and a small file beside it."""

    def make(folder: Path) -> None:
        write_shard(folder / "00000.tar", PAIRS)
        (folder / "00000_stats.json").write_text("{}")

    return lambda: get_or_build(tmp_path / "pieces", "key", make)


@pytest.fixture
def artifact(tmp_path: Path, root: str, make_piece: Make) -> Path:
    """The artifact of one shard in the bucket."""
    folder = make_piece()
    keep_remote(folder, open_data_root(root))
    out = tmp_path / "download"
    put_in_use(out / "shards" / "00000.tar", PAIRS)
    write_manifest(out, {"shards/00000.tar": len(PAIRS)}, put_files(folder, out, SHARDS))
    return out


def objects(root: str) -> dict[str, bytes]:
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    found = boto3.resource("s3").Bucket(bucket).objects.filter(Prefix=prefix)
    return {one.key.removeprefix(f"{prefix}/"): one.get()["Body"].read() for one in found}


def overwrite(uri: str, body: bytes) -> None:
    """Put other bytes in an object's place and leave what was written beside it."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    beside = client.head_object(Bucket=bucket, Key=key)["Metadata"]
    client.put_object(Bucket=bucket, Key=key, Body=body, Metadata=beside)


def delete(uri: str) -> None:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    boto3.client("s3").delete_object(Bucket=bucket, Key=key)


@contextmanager
def watched(endpoint: str) -> Iterator[list[Exchange]]:
    """List every request of the block, those of worker processes among them."""
    exchanges: list[Exchange] = []
    stop_server()  # it has the environment of its start
    with pytest.MonkeyPatch.context() as patch, proxy(endpoint, exchanges=exchanges) as address:
        patch.setenv("AWS_ENDPOINT_URL_S3", address)
        yield exchanges
    stop_server()


def puts(exchanges: list[Exchange]) -> list[str]:
    return [one.name for one in exchanges if one.method in ("PUT", "POST") and MARK not in one.name]


def test_a_shard_goes_to_the_bucket_and_comes_back(tmp_path: Path, root: str, artifact: Path) -> None:
    (shard,) = shards_of(artifact)
    assert shard.uri == f"{root}/shards/00000-{shard.sha256}.tar"
    assert (shard.name, shard.path, shard.rows) == ("00000", "shards/00000.tar", len(PAIRS))
    assert sorted(objects(root)) == [MARK, f"shards/00000-{shard.sha256}.tar"]
    assert list(tmp_path.rglob("*.tar")) == []
    assert list(read_pairs(artifact, shard, tmp_path / "work")) == PAIRS
    assert list((tmp_path / "work" / FETCHED).iterdir()) == []


def test_a_manifest_names_the_same_content_wherever_it_lies(
    tmp_path: Path, artifact: Path, make_piece: Make
) -> None:
    local = tmp_path / "local"
    write_pairs(local / "shards" / "00000.tar", PAIRS)
    shutil.copy(artifact / "shards" / "00000_stats.json", local / "shards")
    write_manifest(local, {"shards/00000.tar": len(PAIRS)})
    assert folder_key(local) == folder_key(artifact)
    assert folder_key(local, "shards/") == folder_key(artifact, "shards/")
    assert [entry.path for entry in read_manifest(artifact)] == [entry.uri for entry in read_manifest(local)]
    assert read_manifest(artifact, "texts/") == []


def test_a_data_root_may_be_a_whole_bucket() -> None:
    digest = content_key("x")
    entry = Entry(f"s3://bucket/shards/a-b-{digest}.tar", 1, digest, 1)
    assert (entry.name, entry.path) == ("a-b", "shards/a-b.tar")


def test_nothing_is_uploaded_twice(s3_endpoint: str, root: str, make_piece: Make) -> None:
    with watched(s3_endpoint) as exchanges:
        keep_remote(make_piece(), open_data_root(root))
        assert len(puts(exchanges)) == 1
    with watched(s3_endpoint) as exchanges:
        bucket = open_data_root(root)
        forget_lost(make_piece(), bucket)
        keep_remote(make_piece(), bucket)
        assert puts(exchanges) == []


def test_a_kill_between_upload_and_entry_costs_no_second_upload(
    s3_endpoint: str, root: str, make_piece: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_folder: Path) -> None:
        raise Stopped

    folder = make_piece()
    with monkeypatch.context() as patch:
        patch.setattr(bulk, "new_folder", killed)
        with pytest.raises(Stopped):
            keep_remote(folder, open_data_root(root))
    assert len(objects(root)) == 2
    assert (folder / "00000.tar").is_file()
    with watched(s3_endpoint) as exchanges:
        keep_remote(make_piece(), open_data_root(root))
        assert puts(exchanges) == []
    assert {entry.path for entry in listed(folder) if entry.is_remote} == {"shards/00000.tar"}


def test_a_damaged_piece_is_not_uploaded(root: str, make_piece: Make) -> None:
    folder = make_piece()
    good = (folder / "00000.tar").read_bytes()
    (folder / "00000.tar").write_bytes(good[:-1] + b"x")
    bucket = open_data_root(root)
    with pytest.raises(DataError, match="00000.tar is damaged"):
        keep_remote(folder, bucket)
    assert list(objects(root)) == [MARK]
    (folder / "00000.tar").write_bytes(good)
    (folder / "00000_stats.json").write_text("{ }")
    with pytest.raises(DataError, match="00000_stats.json is damaged"):
        keep_remote(folder, bucket)


def test_an_object_cut_short_is_written_again(root: str, make_piece: Make) -> None:
    keep_remote(make_piece(), open_data_root(root))
    (name,) = set(objects(root)) - {MARK}
    good = objects(root)[name]
    overwrite(f"{root}/{name}", good[:-1])
    bucket = open_data_root(root)
    forget_lost(make_piece(), bucket)
    keep_remote(make_piece(), bucket)
    assert objects(root)[name] == good


def test_a_lost_object_is_noticed_and_its_shard_made_again(
    root: str, make_piece: Make, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_piece()
    bucket = open_data_root(root)
    keep_remote(folder, bucket)
    before = objects(root)
    (name,) = set(before) - {MARK}
    delete(f"{root}/{name}")
    forget_lost(folder, bucket)
    assert not folder.exists()
    assert f"{root}/{name} is needed in {root}: {root}/{name} not found" in caplog.text
    keep_remote(make_piece(), bucket)
    assert objects(root) == before


def copy(root: str, to: str, *, metadata: bool) -> str:
    """Copy the one shard of a root below another prefix of its bucket, and return its name."""
    (name,) = set(objects(root)) - {MARK}
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    source = {"Bucket": bucket, "Key": f"{prefix}/{name}"}
    directive: Any = "COPY" if metadata else "REPLACE"  # as a copy by way of a disk does
    boto3.client("s3").copy_object(
        Bucket=bucket, Key=f"{to}/{name}", CopySource=source, MetadataDirective=directive
    )
    return name


def remote_uris(folder: Path) -> list[str]:
    return [entry.uri for entry in listed(folder) if entry.is_remote]


@pytest.mark.parametrize("metadata", [True, False])
def test_another_root_takes_what_was_copied_there(
    s3_endpoint: str, s3: str, root: str, artifact: Path, make_piece: Make, metadata: bool
) -> None:
    folder = make_piece()
    name = copy(root, "copy", metadata=metadata)
    delete(f"{root}/{name}")
    other = f"s3://{s3}/copy"
    with watched(s3_endpoint) as exchanges:
        forget_lost(folder, open_data_root(other))
        keep_remote(folder, open_data_root(other))
        assert len(puts(exchanges)) == (0 if metadata else 1)
    assert remote_uris(folder) == [f"{other}/{name}"]
    with watched(s3_endpoint) as exchanges:
        forget_lost(folder, open_data_root(other))
        assert [one.method for one in exchanges if name in one.name] == ["HEAD"]  # the copy is read once


def test_a_copy_of_other_bytes_is_not_taken(
    s3: str, root: str, artifact: Path, make_piece: Make, caplog: pytest.LogCaptureFixture
) -> None:
    name = copy(root, "copy", metadata=False)
    good = objects(root)[name]
    overwrite(f"s3://{s3}/copy/{name}", good[:-1] + b"x")
    folder, other = make_piece(), open_data_root(f"s3://{s3}/copy")
    forget_lost(folder, other)  # the place it was copied from has the right one
    assert (folder / "00000.tar").read_bytes() == good
    keep_remote(folder, other)
    assert objects(other.uri)[name] == good
    overwrite(f"{other.uri}/{name}", good[:-2])
    delete(f"{root}/{name}")
    forget_lost(folder, other)
    assert not folder.exists()
    assert f"{other.uri}/{name} is damaged" in caplog.text


@pytest.mark.parametrize("other", ["empty", None])
def test_a_shard_wanted_elsewhere_is_brought_from_where_it_is(
    tmp_path: Path, s3: str, root: str, artifact: Path, make_piece: Make, other: str | None
) -> None:
    folder = make_piece()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    (name,) = set(objects(root)) - {MARK}
    forget_lost(folder, open_data_root(f"s3://{s3}/{other}") if other else None)
    assert (folder / "00000.tar").read_bytes() == objects(root)[name]
    assert (folder / "00000_stats.json").read_bytes() == before["00000_stats.json"]
    assert remote_uris(folder) == []
    assert list(read_pairs(folder, shards_of(folder)[0], tmp_path / "work")) == PAIRS
    assert [path.name for path in folder.parent.iterdir()] == ["key"]


def test_a_shard_wanted_on_this_machine_is_made_again_if_it_is_lost(
    root: str, artifact: Path, make_piece: Make, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_piece()
    (name,) = set(objects(root)) - {MARK}
    delete(f"{root}/{name}")
    forget_lost(folder, None)
    assert not folder.exists()
    assert f"{root}/{name} is needed on this machine: {root}/{name} not found" in caplog.text


@pytest.mark.parametrize(
    ("fault", "kind"), [("forbidden", ConfigurationError), ("busy", InfrastructureError)]
)
def test_a_former_place_that_gives_no_answer_costs_no_piece(
    root: str, artifact: Path, make_piece: Make, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch,
    fault: Any, kind: type[PipelineError],
) -> None:  # fmt: skip
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0)
    folder = make_piece()
    with proxy(s3_endpoint, fault=lambda _: fault) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        with pytest.raises(kind, match=f"^{root}/shards/.*; if that place .* remove {folder.parent}"):
            forget_lost(folder, None)
    assert remote_uris(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["key"]


def test_no_byte_of_a_wrong_object_is_seen(tmp_path: Path, artifact: Path) -> None:
    (shard,) = shards_of(artifact)
    with local_copy(artifact, shard, tmp_path / "work") as path:
        good = path.read_bytes()
    rng = random.Random(5)  # noqa: S311 - a test's own draws
    flipped = [bytearray(good) for _ in range(8)]
    for bad in flipped:
        bad[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
    cut = [good[: rng.randrange(len(good))] for _ in range(4)]
    for body in (*flipped, *cut, good + b"\0", b"<html>"):
        overwrite(shard.uri, bytes(body))
        seen = []
        with pytest.raises(DataError, match=f"^{shard.uri} is damaged.*`dvc repro --force download`"):
            seen += list(read_pairs(artifact, shard, tmp_path / "work"))
        assert seen == []
        assert list((tmp_path / "work" / FETCHED).iterdir()) == []


def test_a_missing_object_is_named_with_what_to_do(tmp_path: Path, artifact: Path) -> None:
    (shard,) = shards_of(artifact)
    delete(shard.uri)
    with pytest.raises(DataError, match=f"^{shard.uri} not found.*`dvc repro --force download`") as fault:
        list(read_pairs(artifact, shard, tmp_path / "work"))
    assert len(str(fault.value).splitlines()) == 1


def test_a_refused_object_is_named(
    tmp_path: Path, artifact: Path, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shard,) = shards_of(artifact)
    with proxy(s3_endpoint, fault=lambda _: "forbidden") as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        with pytest.raises(ConfigurationError, match=f"^{shard.uri}: S3 refused the credentials"):
            list(read_pairs(artifact, shard, tmp_path / "work"))


def test_a_reader_that_fails_leaves_nothing_on_the_disk(tmp_path: Path, artifact: Path) -> None:
    (shard,) = shards_of(artifact)
    pairs = read_pairs(artifact, shard, tmp_path / "work")
    next(pairs)
    assert len(list((tmp_path / "work" / FETCHED).rglob("00000.tar"))) == 1
    with pytest.raises(Stopped):
        pairs.throw(Stopped)  # type: ignore[attr-defined]
    assert list((tmp_path / "work" / FETCHED).iterdir()) == []


def test_two_readers_of_one_shard_do_not_meet(tmp_path: Path, artifact: Path) -> None:
    (shard,) = shards_of(artifact)
    first, second = (read_pairs(artifact, shard, tmp_path / "work") for _ in range(2))
    assert next(first) == PAIRS[0]
    assert list(second) == PAIRS
    assert list(first) == PAIRS[1:]


def test_a_root_that_may_only_be_read_is_refused_before_any_work(
    root: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(s3_endpoint, fault=lambda one: "forbidden" if one.method == "PUT" else None) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        with pytest.raises(ConfigurationError, match=f"{root}/{MARK}: S3 refused the credentials"):
            open_data_root(root)
