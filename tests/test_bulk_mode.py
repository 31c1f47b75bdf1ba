"""Bulk mode through the stages: equal results, verified reading, bounded disk, no upload done twice."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.audit.stage import run as audit
from components.cli.check import check
from components.download.stage import run as download
from components.embed_captions.sources import caption_shards, zero_shot_prompts
from components.errors import ConfigurationError, DataError, Stopped
from components.evaluate.stage import run as evaluate
from components.ml.vision.pixels import decode_image
from components.recaption.stage import run as recaption
from components.running.entry import start
from components.running.held_out import HeldOut, read_held_out, read_jpegs
from components.running.rows import Rows
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import read_json
from components.storage.audited_rows import kept_shards
from components.storage.bulk import FETCHED, MARK, keep_remote, open_data_root
from components.storage.layout import Layout
from components.storage.manifest import read_manifest
from components.storage.pixels import decoded
from components.storage.shards import shards_of
from components.train_clip.stage import run as train_clip
from tests.cli.test_main import dvc_without_git
from tests.clip_project import make_artifacts, small
from tests.conftest import ROOT
from tests.s3_proxy import Exchange, proxy
from tests.storage.test_bulk import delete, objects, overwrite, puts, watched

LAYOUT = Layout(Path(".work"))
SIZE = 32  # pixels
COLUMNS = {
    "kind": "columns",
    "name": "mine",
    "columns": [
        {"source": "alt", "column": "again", "take": "first", "splits": ["train", "validation", "test"]}
    ],
}


@pytest.fixture
def root(s3: str) -> str:
    return f"s3://{s3}/bulk"


def with_root(smoke: Params, root: str | None) -> Params:
    """Return smoke without what needs base models."""
    tree = smoke.model_dump()
    tree["download"]["data_root"] = root
    tree["recaption"].update(captioners=[COLUMNS], scores=None)
    return Params.model_validate(tree)


def contents(*folders: str) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for folder in folders
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def made(params: Params, env: Environment) -> dict[str, Any]:
    """Run the data stages in the current folder; return what they made and what later stages read of it."""
    for stage in (download, recaption, audit):
        stage(params, env)
    listed = [
        (one.path, one.bytes, one.sha256, one.rows) for one in read_manifest(Path("artifacts/download"))
    ]
    pixels = decoded(
        Path("artifacts/download"),
        Path(".work/t"),
        list(kept_shards(LAYOUT, "train")),
        SIZE,
        decode_image,
        "c",
    )
    held_out = held_out_of_test()
    files = contents("artifacts", "metrics")
    for place, *_ in listed:
        if place.endswith(".tar"):
            files.pop(f"artifacts/download/{place}", None)
    files.pop("artifacts/download/manifest.json")
    return {
        "listed": listed,
        "files": files,
        "pixels": (pixels.keys().to_pylist(), contents(".work/t/pixels")),
        "labels": held_out.labels,
        "jpegs": read_jpegs(LAYOUT, held_out, set(held_out.keys)),
        "prompts": prompts(params),
    }


def prompts(params: Params) -> list[Any]:
    shards = caption_shards(Path("artifacts/recaption"), Path("artifacts/audit"))
    return zero_shot_prompts(params.evaluate.zero_shot, Path("artifacts/download"), shards)


def test_data_stages_make_equal_bytes_from_both_roots(
    smoke: Params, env: Environment, root: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for name, data_root in (("local", None), ("bulk", root)):
        (workspace / name / "inputs" / "demo").mkdir(parents=True)
        monkeypatch.chdir(workspace / name)
        results.append(made(with_root(smoke, data_root), env))
    here, there = results
    assert [place for place, *_ in here["listed"] if place.endswith(".tar")] == [
        f"shards/{number:05d}.tar" for number in range(4)
    ]
    for what, found in here.items():
        assert found
        assert found == there[what], what
    assert list((workspace / "local").rglob("*.tar"))
    assert list((workspace / "bulk").rglob("*.tar")) == []
    assert len(objects(root)) == 4 + 1


@pytest.mark.integration
def test_arms_train_and_are_measured_the_same_from_both_roots(
    smoke: Params, env: Environment, root: str, workspace: Path
) -> None:
    params = small(smoke)
    arms = [arm for arm in params.train_clip.arms if arm.name in ("llm2clip", "clip")]
    section = params.train_clip.model_copy(update={"arms": arms, "steps": 2})
    params = params.model_copy(update={"train_clip": section})
    make_artifacts(LAYOUT)
    results = []
    for _ in range(2):
        for stage in (train_clip, evaluate):
            stage(params, env)
        results.append(contents("artifacts/train_clip", "artifacts/evaluate", "metrics"))
        shutil.rmtree(".work")
        keep_remote(LAYOUT.artifact("download"), open_data_root(root))
    assert results[0] == results[1]
    assert len(results[0]) > 8
    assert list(Path("artifacts").rglob("*.tar")) == []


def held_out_of_test() -> HeldOut:
    return read_held_out(LAYOUT, "test", LAYOUT.work("evaluate"), SIZE, Rows(), with_labels=True)


@pytest.mark.integration
def test_every_reader_refuses_a_flipped_bit_before_it_is_used(
    smoke: Params, env: Environment, root: str, workspace: Path
) -> None:
    params = with_root(smoke, root)
    download(params, env)
    shards = shards_of(Path("artifacts/download"))
    good = objects(root)

    def damage() -> None:
        for shard in shards:
            body = bytearray(good[f"shards/{shard.name}-{shard.sha256}.tar"])
            body[len(body) // 2] ^= 1
            overwrite(shard.uri, bytes(body))

    def mend() -> None:
        for shard in shards:
            overwrite(shard.uri, good[f"shards/{shard.name}-{shard.sha256}.tar"])

    def refused(read: Callable[[], object]) -> None:
        damage()
        with pytest.raises(DataError, match=r"s3://.*-[0-9a-f]{64}\.tar is damaged: its sha256 is"):
            read()
        mend()

    damage()
    recaption(params, env)  # of tables alone
    mend()
    refused(lambda: audit(params, env))
    assert not Path("artifacts/audit").exists()
    audit(params, env)
    train = list(kept_shards(LAYOUT, "train"))
    refused(lambda: decoded(Path("artifacts/download"), Path(".work/t"), train, SIZE, decode_image, "c"))
    assert not list(Path(".work/t/pixels").glob("[0-9a-f]*"))
    damage()
    assert prompts(params)  # of tables alone
    mend()
    refused(held_out_of_test)
    held_out = held_out_of_test()
    refused(lambda: read_jpegs(LAYOUT, held_out, set(held_out.keys)))


@pytest.mark.integration
def test_a_second_run_uploads_nothing_and_a_lost_shard_alone_is_made_again(
    smoke: Params, env: Environment, root: str, s3_endpoint: str, workspace: Path
) -> None:
    params = with_root(smoke, root)
    download(params, env)
    manifest = Path("artifacts/download/manifest.json").read_bytes()
    with watched(s3_endpoint) as exchanges:
        download(params, env)
    assert puts(exchanges) == []
    assert not any(one.method == "GET" and ".tar" in one.name for one in exchanges)
    lost = shards_of(Path("artifacts/download"))[2]
    delete(lost.uri)
    with watched(s3_endpoint) as exchanges:
        download(params, env)
    assert [name.endswith(f"00002-{lost.sha256}.tar") for name in puts(exchanges)] == [True]
    assert Path("artifacts/download/manifest.json").read_bytes() == manifest


@pytest.mark.integration
def test_shards_made_on_this_machine_go_to_a_bucket_without_being_made_again(
    smoke: Params, env: Environment, root: str, workspace: Path
) -> None:
    def ledgers() -> dict[str, int]:
        """Return the file each ledger is, which is a new one when its shard is made again."""
        return {path.name: path.stat().st_ino for path in Path("artifacts").rglob("shards/*.parquet")}

    download(with_root(smoke, None), env)
    made, here = ledgers(), [(one.path, one.sha256) for one in read_manifest(Path("artifacts/download"))]
    download(with_root(smoke, root), env)
    assert [(one.path, one.sha256) for one in read_manifest(Path("artifacts/download"))] == here
    assert ledgers() == made
    assert len(made) == 4
    assert list(Path(".").rglob("*.tar")) == []


@pytest.mark.integration
@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGKILL, "before the entry"),
        (signal.SIGTERM, "before the upload"),
        pytest.param(signal.SIGKILL, "before the upload", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "before the entry", marks=pytest.mark.slow),
    ],
)
def test_a_kill_around_an_upload_costs_no_second_one(
    root: str, s3_endpoint: str, workspace: Path, number: signal.Signals, moment: str
) -> None:
    """A shard's requests are HEAD, PUT, HEAD: the third shard is killed at the second or at the third."""
    yaml = YAML()
    tree = yaml.load(Path("params.yaml"))
    tree["download"]["data_root"] = root
    yaml.dump(tree, Path("params.yaml"))
    exchanges: list[Exchange] = []
    processes: list[subprocess.Popen[str]] = []
    tars_on_disk = Counter[int]()

    def kill_in_the_third_shard(one: Exchange) -> str | None:
        if ".tar" not in one.name or len(processes) > 1:
            return None
        if one.method == "PUT":
            tars_on_disk[len(list(workspace.rglob("*.tar")))] += 1
        uploads = [other for other in exchanges if other.method == "PUT" and ".tar" in other.name]
        wanted = "PUT" if moment == "before the upload" else "HEAD"
        if len(uploads) == 3 and one.method == wanted:
            processes[0].send_signal(number)
            return "reset"
        return None

    def run_it() -> int:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "components", "download"],
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), "LLM2CLIP_PROCESSES": "1"},
                stderr=subprocess.PIPE,
            )  # fmt: skip
        )
        processes[-1].communicate()
        return processes[-1].returncode

    with pytest.MonkeyPatch.context() as patch:
        with proxy(s3_endpoint, fault=kill_in_the_third_shard, exchanges=exchanges) as address:
            patch.setenv("AWS_ENDPOINT_URL_S3", address)
            assert run_it() == (-signal.SIGKILL if number is signal.SIGKILL else Stopped.exit_code)
            assert not Path("artifacts/download").exists()
            there = {name for name in objects(root) if name != MARK}
            exchanges.clear()
            assert run_it() == 0
    uploaded = {name.partition("/bulk/")[2] for name in puts(exchanges)}
    assert len(there | uploaded) == 4
    assert there & uploaded == set()
    assert len(there) == (2 if moment == "before the upload" else 3)
    assert set(tars_on_disk) == {1}  # what is in flight
    shards = shards_of(Path("artifacts/download"))
    assert {f"shards/{shard.name}-{shard.sha256}.tar" for shard in shards} == there | uploaded
    assert list(workspace.rglob("*.tar")) == []


def test_what_a_killed_reader_left_is_removed_at_the_next_start(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = Path(".work") / "audit" / FETCHED / "tmpx" / "00000.tar"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    monkeypatch.setattr("components.audit.stage.run", lambda params, env: None)
    assert start("audit") == 0
    assert not left.exists()


def test_the_check_says_where_shards_go(
    smoke: Params, env: Environment, root: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def to(uri: str) -> Params:
        download = smoke.download.model_copy(update={"data_root": uri})
        return smoke.model_copy(update={"download": download})

    dvc_without_git(Path())
    assert "data root: this machine" in check(smoke, env)
    assert f"data root: {root}, writable" in check(to(root), env)
    with pytest.raises(ConfigurationError, match="there is no such bucket"):
        check(to("s3://nowhere-to-be-found/x"), env)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigurationError, match="set AWS_ACCESS_KEY_ID"):
        check(to(root), env)


@pytest.mark.integration
def test_no_stage_removes_an_object(
    smoke: Params, env: Environment, root: str, s3_endpoint: str, workspace: Path
) -> None:
    with watched(s3_endpoint) as exchanges:
        download(with_root(smoke, root), env)
        changed = with_root(smoke, root).model_dump()
        changed["download"]["images"]["jpeg_quality"] = 80
        download(Params.model_validate(changed), env)
        recaption(with_root(smoke, root), env)
    assert len(objects(root)) == 2 * 4 + 1  # those of an earlier manifest stay
    assert {one.method for one in exchanges} == {"GET", "HEAD", "PUT"}
    assert read_json(Path("metrics/recaption.json"))["rows_out"] == 256


def test_no_stage_reads_a_shard_or_its_name_past_the_one_way() -> None:
    """A local path of a shard is no path in bulk mode: `read_pairs` and `Entry.name` know of both."""
    past = re.compile(r"\bread_shard\b|\.uri\)\.stem")
    code = [path for path in (ROOT / "components").rglob("*.py") if path.parent.name != "storage"]
    assert [str(path.relative_to(ROOT)) for path in code if past.search(path.read_text("utf-8"))] == []
