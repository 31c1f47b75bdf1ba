"""A folder and S3 keep the same promises, and say what is wrong in one line."""

from __future__ import annotations

import os
import random
import signal
import socket
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.retries.standard import ExponentialBackoff

from components.errors import ConfigurationError, DataError, InfrastructureError, PipelineError, Stopped
from components.running.signals import STOP_SIGNALS, raise_on_stop_signals
from components.storage.buckets import s3
from components.storage.buckets.bucket import Bucket, FolderBucket, open_bucket
from tests.s3_proxy import FAULTS, Exchange, proxy

RACERS, ROUNDS = 8, 5


@pytest.fixture(params=["folder", "s3"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    if request.param == "folder":
        return open_bucket(str(tmp_path / "registry"))
    return open_bucket(f"s3://{request.getfixturevalue('s3')}/some/prefix")


def test_bytes_come_back_and_names_are_listed(bucket: Bucket) -> None:
    assert bucket.names() == []
    assert bucket.read("a/b.json") is None
    assert bucket.write("a/b.json", b"1")
    assert bucket.write("c.json", b"2")
    found = bucket.read("a/b.json")
    assert found is not None
    assert found[0] == b"1"
    assert bucket.exists("a/b.json")
    assert bucket.names() == ["a/b.json", "c.json"]
    assert bucket.names("a/") == ["a/b.json"]
    bucket.delete("a/b.json")
    assert not bucket.exists("a/b.json")


def test_conditions_decide(bucket: Bucket) -> None:
    bucket.check_conditions()
    assert bucket.names() == []
    assert not bucket.write("one", b"0", if_match='"of nothing"')
    assert bucket.write("one", b"1", if_absent=True)
    assert not bucket.write("one", b"2", if_absent=True)
    found = bucket.read("one")
    assert found is not None
    assert found[0] == b"1"
    assert bucket.write("one", b"3", if_match=found[1])
    assert not bucket.write("one", b"4", if_match=found[1])
    now = bucket.read("one")
    assert now is not None
    assert now[0] == b"3"


def test_a_race_has_one_winner_and_no_swap_is_lost(bucket: Bucket) -> None:
    bucket.write("counter", b"0")

    def race(racer: int) -> list[bool]:
        won = [bucket.write(f"round{number}", b"%d" % racer, if_absent=True) for number in range(ROUNDS)]
        while True:
            found = bucket.read("counter")
            assert found is not None
            if bucket.write("counter", b"%d" % (int(found[0]) + 1), if_match=found[1]):
                return won

    with ThreadPoolExecutor(RACERS) as pool:
        won = list(pool.map(race, range(RACERS)))
    assert [sum(of_round) for of_round in zip(*won, strict=True)] == [1] * ROUNDS
    assert bucket.read("counter") == (str(RACERS).encode(), bucket.read("counter")[1])  # type: ignore[index]


def test_files_go_up_once_and_come_down_verified(bucket: Bucket, tmp_path: Path) -> None:
    source, target = tmp_path / "model.bin", tmp_path / "back" / "model.bin"
    source.write_bytes(b"weights" * 1000)
    digest = sha256(source.read_bytes()).hexdigest()
    assert bucket.upload_file(source, "v/model.bin", digest)
    assert not bucket.upload_file(source, "v/model.bin", digest)
    bucket.download_file("v/model.bin", target, digest)
    assert target.read_bytes() == source.read_bytes()

    bucket.write("v/model.bin", b"damaged")
    with pytest.raises(DataError, match="is damaged"):
        bucket.download_file("v/model.bin", target, digest)
    assert target.read_bytes() == source.read_bytes()
    with pytest.raises(DataError, match="not found"):
        bucket.download_file("v/other.bin", target, digest)
    with pytest.raises(DataError, match="is damaged"):
        bucket.upload_file(source, "v/new.bin", "0" * 64)
    assert not bucket.exists("v/new.bin")


def test_an_object_of_unknown_content_comes_as_it_is(bucket: Bucket, tmp_path: Path) -> None:
    bucket.write("a/b.bin", b"whatever")
    bucket.download_file("a/b.bin", tmp_path / "back", None)
    assert (tmp_path / "back").read_bytes() == b"whatever"
    with pytest.raises(DataError, match="other.bin not found; put it there or correct its name"):
        bucket.download_file("a/other.bin", tmp_path / "back", None)


def test_a_damaged_copy_in_a_folder_is_mended(tmp_path: Path) -> None:
    bucket, source = FolderBucket(tmp_path / "registry"), tmp_path / "model.bin"
    source.write_bytes(b"weights")
    digest = sha256(b"weights").hexdigest()
    bucket.upload_file(source, "model.bin", digest)
    (tmp_path / "registry" / "model.bin").write_bytes(b"weighty")
    assert bucket.upload_file(source, "model.bin", digest)
    assert bucket.read("model.bin") == (b"weights", digest)


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../b", ""])
def test_a_name_stays_below_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="is no object's name"):
        FolderBucket(tmp_path).write(name, b"")


@pytest.mark.parametrize("uri", ["gs://bucket/x", "http://host/x", "s3:/bucket", "s3://"])
def test_other_addresses_are_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a folder or s3://bucket/prefix"):
        open_bucket(uri)


def test_an_address_with_credentials_is_refused_without_repeating_them() -> None:
    with pytest.raises(ConfigurationError, match="holds credentials") as fault:
        open_bucket("s3://key:canary@bucket/prefix")
    assert "canary" not in str(fault.value)


def refusal(uri: str) -> PipelineError:
    with pytest.raises(PipelineError) as fault:
        open_bucket(uri)
    assert len(str(fault.value).splitlines()) == 1
    return fault.value


def test_a_missing_bucket_is_named(s3: str) -> None:
    fault = refusal("s3://nowhere-to-be-found/x")
    assert isinstance(fault, ConfigurationError)
    assert "s3://nowhere-to-be-found/x: there is no such bucket" in str(fault)


def test_missing_credentials_are_named(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    fault = refusal(f"s3://{s3}")
    assert isinstance(fault, ConfigurationError)
    assert "set AWS_ACCESS_KEY_ID" in str(fault)


def test_a_dead_endpoint_may_be_tried_again(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free}")
    fault = refusal(f"s3://{s3}")
    assert isinstance(fault, InfrastructureError)
    assert "look at AWS_ENDPOINT_URL_S3" in str(fault)


def test_a_malformed_endpoint_or_bucket_is_a_mistake(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(refusal("s3://Not A Bucket/x"), ConfigurationError)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "no-scheme")
    assert isinstance(refusal(f"s3://{s3}"), ConfigurationError)


def test_a_busy_server_is_ridden_out(s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(s3_endpoint, fault=lambda one: "busy" if one.number == 0 else None) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        bucket = open_bucket(f"s3://{s3}")
        assert bucket.write("one", b"1", if_absent=True)
        assert bucket.exists("one")


def test_a_server_that_ignores_conditions_is_refused(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(s3_endpoint, drops_conditions=True) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        bucket = open_bucket(f"s3://{s3}")
        with pytest.raises(ConfigurationError, match="ignores If-None-Match or If-Match"):
            bucket.check_conditions()
        assert bucket.names() == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send again at once, and in parts of the smallest size S3 takes."""
    parts = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, max_concurrency=2)
    monkeypatch.setattr(s3, "PARTS", parts)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0)
    monkeypatch.setattr(s3, "BACKOFF_SECONDS", 0)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "00000.tar"
    path.write_bytes(random.Random(4).randbytes((5 << 20) + 1000))  # noqa: S311 - a test's own draws
    return path


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind == "reset" else pytest.mark.integration) for kind in FAULTS],
)
def test_a_fault_that_passes_is_ridden_out_at_every_request(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, impatient: None, large: Path, kind: str
) -> None:
    digest = sha256(large.read_bytes()).hexdigest()
    exchanges: list[Exchange] = []
    struck = 0

    def strike_once(one: Exchange) -> str | None:
        return kind if one.number == struck else None

    with proxy(s3_endpoint, fault=strike_once, exchanges=exchanges) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        while True:
            exchanges.clear()
            bucket = open_bucket(f"s3://{s3}")
            assert bucket.upload_file(large, f"{struck}", digest)
            bucket.download_file(f"{struck}", large.with_name("back"), digest)
            assert large.with_name("back").read_bytes() == large.read_bytes()
            if not any(one.fault for one in exchanges):
                break
            struck += 1
    assert struck == len(exchanges) > 8  # one run with a fault at each request, and one without
    assert _parts_left_behind(s3, s3_endpoint) == []


def test_only_the_part_that_was_cut_is_sent_again(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, impatient: None, large: Path
) -> None:
    digest = sha256(large.read_bytes()).hexdigest()
    open_bucket(f"s3://{s3}").upload_file(large, "one", digest)
    exchanges: list[Exchange] = []

    def cut_the_first_part(one: Exchange) -> str | None:
        before = [other for other in exchanges if other.byte_range == "bytes=0-5242879"]
        return "cut_answer" if before == [one] else None

    with proxy(s3_endpoint, fault=cut_the_first_part, exchanges=exchanges) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        open_bucket(f"s3://{s3}", greet=False).download_file("one", large.with_name("back"), digest)
    assert large.with_name("back").read_bytes() == large.read_bytes()
    asked = sorted((one.byte_range, one.body_bytes) for one in exchanges if one.byte_range)
    first, last = "bytes=0-5242879", "bytes=5242880-"
    assert asked == [(first, (5 << 20) // 2), (first, 5 << 20), (last, 1000)]


@pytest.mark.parametrize(("kind", "requests"), [("forbidden", 1), ("busy", 6), ("cut_answer", 6)])
def test_what_does_not_pass_stops_after_a_stated_number_of_requests(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, impatient: None, kind: str, requests: int
) -> None:
    open_bucket(f"s3://{s3}").write("one", b"1")
    exchanges: list[Exchange] = []
    with proxy(s3_endpoint, fault=lambda _: kind, exchanges=exchanges) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        bucket = open_bucket(f"s3://{s3}", greet=False)
        with pytest.raises(PipelineError, match=f"^s3://{s3}/one: .*") as fault:
            bucket.download_file("one", Path("back"), "0" * 64)
    permanent = ConfigurationError if kind == "forbidden" else InfrastructureError
    assert isinstance(fault.value, permanent)
    assert len(str(fault.value).splitlines()) == 1
    assert len(exchanges) == requests
    assert not Path("back").exists()


def test_an_upload_whose_end_is_told_twice_is_whole(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, impatient: None, large: Path
) -> None:
    """Some servers know no upload any more when the answer to its end was lost and the end comes again."""
    answers = iter(["cut_answer", "no_upload", None])

    def lose_the_end(one: Exchange) -> str | None:
        return next(answers) if one.method == "POST" and "uploadId" in one.name else None

    digest = sha256(large.read_bytes()).hexdigest()
    with proxy(s3_endpoint, fault=lose_the_end) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        assert open_bucket(f"s3://{s3}").upload_file(large, "one", digest)
        assert next(answers) is None  # both were given
        open_bucket(f"s3://{s3}").download_file("one", large.with_name("back"), digest)


def test_an_upload_that_fails_leaves_nothing_behind(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, impatient: None, large: Path
) -> None:
    last_part = lambda one: "error" if "partNumber=2" in one.name else None  # noqa: E731
    with proxy(s3_endpoint, fault=last_part) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        bucket = open_bucket(f"s3://{s3}")
        with pytest.raises(InfrastructureError, match=f"s3://{s3}/one: S3 answered InternalError"):
            bucket.upload_file(large, "one", sha256(large.read_bytes()).hexdigest())
        assert not bucket.exists("one")
    assert _parts_left_behind(s3, s3_endpoint) == []


def test_a_stop_in_the_middle_of_an_upload_leaves_nothing_behind(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, impatient: None, large: Path
) -> None:
    def stop(one: Exchange) -> None:
        if "partNumber=2" in one.name:
            os.kill(os.getpid(), signal.SIGTERM)

    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    raise_on_stop_signals()
    try:
        with proxy(s3_endpoint, fault=stop) as address:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
            with pytest.raises(Stopped):
                open_bucket(f"s3://{s3}").upload_file(large, "one", sha256(large.read_bytes()).hexdigest())
    finally:
        for number, handler in zip(STOP_SIGNALS, before, strict=True):
            signal.signal(number, handler)
    assert _parts_left_behind(s3, s3_endpoint) == []


def test_an_object_that_vanishes_while_it_is_fetched_is_missing(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, impatient: None, large: Path
) -> None:
    digest = sha256(large.read_bytes()).hexdigest()
    here = open_bucket(f"s3://{s3}")
    here.upload_file(large, "one", digest)

    def delete_first(one: Exchange) -> None:
        if one.method == "GET":
            here.delete("one")

    with proxy(s3_endpoint, fault=delete_first) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        with pytest.raises(DataError, match=f"s3://{s3}/one not found"):
            open_bucket(f"s3://{s3}", greet=False).download_file("one", large.with_name("back"), digest)


def test_a_body_that_is_not_that_of_its_checksum_is_damaged(s3: str, tmp_path: Path) -> None:
    good, checksum = b"good", b64encode(sha256(b"good").digest()).decode()
    boto3.client("s3").put_object(Bucket=s3, Key="one", Body=b"evil", ChecksumSHA256=checksum)
    with pytest.raises(DataError, match=f"s3://{s3}/one is damaged"):
        open_bucket(f"s3://{s3}").download_file("one", tmp_path / "back", sha256(good).hexdigest())
    assert not (tmp_path / "back").exists()


def test_a_server_that_is_busy_at_first_is_not_called_absent(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    with proxy(s3_endpoint, fault=lambda one: "busy" if one.number < 4 else None) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        assert open_bucket(f"s3://{s3}").names() == []


def _parts_left_behind(bucket: str, endpoint: str) -> list[str]:
    """Return the objects whose unfinished upload holds parts; an empty one stays when its answer was lost."""
    client = boto3.client("s3", endpoint_url=endpoint)
    uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return [
        one["Key"]
        for one in uploads
        if client.list_parts(Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"]).get("Parts")
    ]
