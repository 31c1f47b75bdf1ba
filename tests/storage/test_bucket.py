"""A folder and S3 keep the same promises, and say what is wrong in one line."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from components.faults import ConfigurationFault, DataFault, Fault, InfrastructureFault
from components.storage.bucket import Bucket, FolderBucket, open_bucket
from tests.s3_proxy import proxy

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
    with pytest.raises(DataFault, match="is damaged"):
        bucket.download_file("v/model.bin", target, digest)
    assert target.read_bytes() == source.read_bytes()
    with pytest.raises(DataFault, match="not found"):
        bucket.download_file("v/other.bin", target, digest)
    with pytest.raises(DataFault, match="is damaged"):
        bucket.upload_file(source, "v/new.bin", "0" * 64)
    assert not bucket.exists("v/new.bin")


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
    with pytest.raises(DataFault, match="is no object's name"):
        FolderBucket(tmp_path).write(name, b"")


@pytest.mark.parametrize("uri", ["gs://bucket/x", "http://host/x", "s3:/bucket", "s3://"])
def test_other_addresses_are_refused(uri: str) -> None:
    with pytest.raises(ConfigurationFault, match="expected a folder or s3://bucket/prefix"):
        open_bucket(uri)


def test_an_address_with_credentials_is_refused_without_repeating_them() -> None:
    with pytest.raises(ConfigurationFault, match="holds credentials") as fault:
        open_bucket("s3://key:canary@bucket/prefix")
    assert "canary" not in str(fault.value)


def refusal(uri: str) -> Fault:
    with pytest.raises(Fault) as fault:
        open_bucket(uri)
    assert len(str(fault.value).splitlines()) == 1
    return fault.value


def test_a_missing_bucket_is_named(s3: str) -> None:
    fault = refusal("s3://nowhere-to-be-found/x")
    assert isinstance(fault, ConfigurationFault)
    assert "s3://nowhere-to-be-found/x: there is no such bucket" in str(fault)


def test_missing_credentials_are_named(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    fault = refusal(f"s3://{s3}")
    assert isinstance(fault, ConfigurationFault)
    assert "set AWS_ACCESS_KEY_ID" in str(fault)


def test_a_dead_endpoint_may_be_tried_again(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free}")
    fault = refusal(f"s3://{s3}")
    assert isinstance(fault, InfrastructureFault)
    assert "look at AWS_ENDPOINT_URL_S3" in str(fault)


def test_a_malformed_endpoint_or_bucket_is_a_mistake(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(refusal("s3://Not A Bucket/x"), ConfigurationFault)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "no-scheme")
    assert isinstance(refusal(f"s3://{s3}"), ConfigurationFault)


def test_a_busy_server_is_ridden_out(s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(s3_endpoint, busy_answers=1) as address:
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
        with pytest.raises(ConfigurationFault, match="ignores If-None-Match or If-Match"):
            bucket.check_conditions()
        assert bucket.names() == []
