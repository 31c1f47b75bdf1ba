"""Shards on a web server or in a bucket: the same rows as beside us, whatever happens on the way."""

from __future__ import annotations

import asyncio
import gzip
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import boto3
import pytest

from components.download import remote_shards
from components.download.stage import run
from components.errors import ConfigurationError, DataError, InfrastructureError, PipelineError
from components.settings.download import Fetch
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.sources import Shards
from components.sources.source_requirements import Inputs
from tests.download.server import Answer, Server, body, redirect, reset, status
from tests.download.test_stage import hashes, jpeg, ledger, with_sources
from tests.s3_proxy import Exchange, proxy
from tests.sources.test_shard_rows import shards
from tests.storage.test_tar_index import tar
from tests.threaded import stopped_once

NAMES = ["00000.tar", "00001.tar", "00002.tar"]
NUMBERED = "{00000..00002}.tar"
BROUGHT = Path(".work/download/brought")


@pytest.fixture
def tars(workspace: Path) -> dict[str, bytes]:
    """Three shards of five images, in inputs/demo/cc3m as well."""
    folder = workspace / "inputs" / "demo" / "cc3m"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        keys = range(5 * number, 5 * number + 5)
        members = [(f"{key:03d}.jpg", jpeg(key)) for key in keys]
        members += [(f"{key:03d}.txt", f"image {key}".encode()) for key in keys]
        tar(folder / name, sorted(members))
    return {name: (folder / name).read_bytes() for name in NAMES}


@pytest.fixture
def site(server: Server, tars: dict[str, bytes]) -> str:
    """The address of a folder of these shards on a web server."""
    server.answers |= {f"/cc/{name}": body(data, f'ETag: "{name}"') for name, data in tars.items()}
    return server.url("/cc")


@pytest.fixture
def prefix(s3: str, tars: dict[str, bytes]) -> str:
    """A prefix of a bucket with these shards and what may lie beside them."""
    client = boto3.client("s3")
    for name, data in {**tars, "00000_stats.json": b"{}", "old/00009.tar": b"another"}.items():
        client.put_object(Bucket=s3, Key=f"cc/{name}", Body=data)
    return f"s3://{s3}/cc"


def made(smoke: Params, env: Environment, fetch: Fetch, path: str, **changes: Any) -> dict[str, str]:
    """Run the stage on one source and return what it made."""
    run(with_sources(smoke, [shards(path=path, **changes)], fetch), env)
    return hashes()


def refused(smoke: Params, env: Environment, fetch: Fetch, path: str, kind: type[PipelineError]) -> str:
    with pytest.raises(kind) as caught:
        made(smoke, env, fetch, path)
    assert not Path("artifacts/download").exists()
    assert not list(BROUGHT.rglob(".*.part"))
    return str(caught.value)


def paths_asked(server: Server) -> dict[str, int]:
    return {path.removeprefix("/cc/"): count for path, count in sorted(server.hits.items())}


def test_shards_from_anywhere_give_the_same_bytes(
    smoke: Params, env: Environment, fetch: Fetch, site: str, prefix: str
) -> None:
    here = made(smoke, env, fetch, "cc3m/*.tar")
    assert len(ledger()) == 15
    for path in (f"{site}/{NUMBERED}", f"{prefix}/{NUMBERED}", f"{prefix}/*.tar"):
        assert made(smoke, env, fetch, path) == here
        assert not BROUGHT.exists()


def test_one_shard_of_several_sources(
    smoke: Params, env: Environment, fetch: Fetch, site: str, prefix: str
) -> None:
    sources = [
        shards(name="one", path=f"{site}/00000.tar"),
        shards(name="two", path=f"{prefix}/00000.tar"),
        shards(name="three", path="cc3m/00000.tar"),
    ]
    run(with_sources(smoke, sources, fetch), env)
    assert sorted(ledger()) == sorted(
        f"{name}_00000_{key:03d}" for name in ("one", "two", "three") for key in range(5)
    )


def parts(server: Server, path: str, data: bytes, tag: str = '"a"') -> Answer:
    """Answer the part that is asked for, if it is asked for of this version, else all of it."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        asked = dict(line.split(": ", 1) for line in server.headers[path])
        at = int(asked.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if at and asked["If-Range"] == tag:
            lines = [
                "HTTP/1.1 206 Partial Content", f"Content-Length: {len(data) - at}",
                f"Content-Range: bytes {at}-{len(data) - 1}/{len(data)}", f"ETag: {tag}",
            ]  # fmt: skip
            writer.write("\r\n".join([*lines, "", ""]).encode() + data[at:])
        else:
            await body(data, f"ETag: {tag}")(writer)

    return answer


def cut(data: bytes, *headers: str) -> Answer:
    return body(data[: len(data) // 2], *headers, length=len(data))


def test_after_a_cut_the_rest_alone_is_asked_for(
    smoke: Params, env: Environment, fetch: Fetch, server: Server, site: str, tars: dict[str, bytes]
) -> None:
    here = made(smoke, env, fetch, "cc3m/*.tar")
    one, two, three = (f"/cc/{name}" for name in NAMES)
    first, second, third = tars.values()
    server.answers[one] = [cut(first, 'ETag: "a"'), parts(server, one, first)]
    server.answers[two] = [cut(b"another".ljust(len(second)), 'ETag: "a"'), parts(server, two, second, '"b"')]
    server.answers[three] = [cut(third, 'ETag: W/"a"'), reset, body(third)]  # could be another file
    assert made(smoke, env, fetch, f"{site}/{NUMBERED}") == here
    assert f"Range: bytes={len(first) // 2}-" in server.headers[one]
    assert 'If-Range: "a"' in server.headers[two]
    assert not any(line.startswith("Range") for line in server.headers[three])


def test_a_shard_that_is_packed_on_the_way_is_unpacked_and_never_asked_for_in_parts(
    smoke: Params, env: Environment, fetch: Fetch, server: Server, site: str, tars: dict[str, bytes]
) -> None:
    here = made(smoke, env, fetch, "cc3m/*.tar")
    packed = {name: gzip.compress(data) for name, data in tars.items()}
    coding = ("Content-Encoding: gzip", 'ETag: "a"')
    for name, data in packed.items():
        # cut by the connection, then within the coding
        answers = [cut(data, *coding), body(data[:-9], *coding), body(data, *coding)]
        server.answers[f"/cc/{name}"] = answers
    assert made(smoke, env, fetch, f"{site}/{NUMBERED}") == here
    assert paths_asked(server) == dict.fromkeys(NAMES, 3)
    assert not any(line.startswith("Range") for lines in server.headers.values() for line in lines)


def test_a_part_that_was_not_asked_for_is_no_part(
    smoke: Params, env: Environment, fetch: Fetch, server: Server, site: str, tars: dict[str, bytes]
) -> None:
    wrong = status(206, "Content-Range: bytes 0-9/10")
    server.answers["/cc/00000.tar"] = [cut(tars["00000.tar"], 'ETag: "a"'), wrong]
    assert "00000.tar: bad_response" in refused(smoke, env, fetch, f"{site}/{NUMBERED}", ConfigurationError)
    server.answers["/cc/00000.tar"] = wrong
    assert "00000.tar: http_206" in refused(smoke, env, fetch, f"{site}/{NUMBERED}", ConfigurationError)


def test_what_came_is_kept_for_the_next_run(
    smoke: Params, env: Environment, fetch: Fetch, server: Server, site: str, tars: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(remote_shards, "FILES_AT_ONCE", 1)
    server.answers["/cc/00001.tar"] = status(503)
    impatient = fetch.model_copy(update={"retries": 0})
    path = f"{site}/{NUMBERED}"
    assert "00001.tar: http_503; rerun" in refused(smoke, env, impatient, path, InfrastructureError)
    assert paths_asked(server) == {"00000.tar": 1, "00001.tar": 1}
    server.answers["/cc/00001.tar"] = body(tars["00001.tar"])
    made(smoke, env, impatient, path)
    assert paths_asked(server) == {"00000.tar": 1, "00001.tar": 2, "00002.tar": 1}


def test_a_stop_signal_ends_the_bringing_at_once(
    smoke: Params, env: Environment, fetch: Fetch, server: Server, site: str, tars: dict[str, bytes]
) -> None:
    asked = threading.Event()

    async def hold(writer: asyncio.StreamWriter) -> None:
        await cut(tars["00001.tar"])(writer)
        await writer.drain()
        asked.set()
        await asyncio.Event().wait()

    server.answers["/cc/00001.tar"] = [hold, body(tars["00001.tar"])]
    patient = fetch.model_copy(update={"deadline_seconds": 60.0})
    with stopped_once(asked):
        made(smoke, env, patient, f"{site}/{NUMBERED}")
    assert not list(BROUGHT.rglob(".*.part"))
    assert made(smoke, env, fetch, f"{site}/{NUMBERED}") == made(smoke, env, fetch, "cc3m/*.tar")


def test_what_is_here_is_looked_through_again(
    smoke: Params, env: Environment, fetch: Fetch, server: Server, site: str, tars: dict[str, bytes]
) -> None:
    here = made(smoke, env, fetch, "cc3m/*.tar")
    source = shards(path=f"{site}/{NUMBERED}")
    folder = Inputs(Path("inputs/demo"), BROUGHT).of(source)
    folder.mkdir(parents=True)
    (folder / "00000.tar").write_bytes(tars["00000.tar"])
    (folder / "00001.tar").write_bytes(tars["00001.tar"][:4000])
    (folder / "00003.tar").write_bytes(tars["00002.tar"])
    assert made(smoke, env, fetch, source.path) == here
    assert paths_asked(server) == {"00001.tar": 1, "00002.tar": 1}


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (b"<html>Please log in</html>", "is an HTML page inside; expected a plain tar; fetch the file from"),
        (b"", "is no whole tar of plain files: it has no bytes"),
        (
            gzip.compress(b"a tar"),
            "is gzip inside; expected a plain tar; it is compressed: unpack it with gunz",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a Git LFS pointer inside; expected a plain tar",
        ),
        (b"\0" * 20480, "is no whole tar of plain files: it is 20480 bytes of zeros"),
    ],
)
def test_what_is_no_shard_is_told_and_not_kept(
    smoke: Params,
    env: Environment,
    fetch: Fetch,
    server: Server,
    site: str,
    tars: dict[str, bytes],
    bad: bytes,
    expected: str,
) -> None:
    server.answers["/cc/00001.tar"] = body(bad)
    message = refused(smoke, env, fetch, f"{site}/{NUMBERED}", DataError)
    assert message.startswith(f"{site}/00001.tar came and {expected}")
    server.answers["/cc/00001.tar"] = body(tars["00001.tar"])
    assert len(made(smoke, env, fetch, f"{site}/{NUMBERED}")) > 3


def test_an_empty_shard_among_many_has_no_rows(
    smoke: Params, env: Environment, fetch: Fetch, server: Server, site: str
) -> None:
    server.answers["/cc/00001.tar"] = body(bytes(10240))
    made(smoke, env, fetch, f"{site}/{NUMBERED}")
    assert [key.rpartition("_")[0] for key in sorted(ledger())] == ["cc_00000"] * 5 + ["cc_00002"] * 5


def test_a_limit_brings_no_more_shards_than_it_needs(
    smoke: Params, env: Environment, fetch: Fetch, server: Server, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_shards, "FILES_AT_ONCE", 1)
    here = made(smoke, env, fetch, "cc3m/*.tar", limit=6)
    assert len(ledger()) == 6
    assert made(smoke, env, fetch, f"{site}/{NUMBERED}", limit=6) == here
    assert paths_asked(server) == {"00000.tar": 1, "00001.tar": 1}


def test_a_pin_is_of_all_shards(
    smoke: Params, env: Environment, fetch: Fetch, server: Server, site: str, tars: dict[str, bytes]
) -> None:
    listed = "".join(f"{sha256(data).hexdigest()}  {name}\n" for name, data in tars.items())
    pin = sha256(listed.encode()).hexdigest()
    made(smoke, env, fetch, f"{site}/{NUMBERED}", sha256=pin, limit=1)
    assert len(ledger()) == 1
    assert sorted(paths_asked(server)) == NAMES
    with pytest.raises(DataError, match=f"has sha256 {pin}, params pin 0000"):
        made(smoke, env, fetch, f"{site}/{NUMBERED}", sha256="0" * 64)


def test_servers_that_do_not_give_a_shard(
    smoke: Params, env: Environment, fetch: Fetch, server: Server, site: str
) -> None:
    hurried = fetch.model_copy(update={"retries": 0})

    def says(answer: Answer, kind: type[PipelineError], fetch: Fetch = hurried) -> str:
        server.answers["/cc/00001.tar"] = answer
        return refused(smoke, env, fetch, f"{site}/{NUMBERED}", kind).partition("00001.tar: ")[2]

    async def silent(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
        await writer.drain()
        await asyncio.Event().wait()

    assert says(status(404), ConfigurationError).startswith("http_404; expected a shard; correct the path")
    assert says(status(503), InfrastructureError) == "http_503; rerun later"
    assert says(reset, InfrastructureError).startswith("connection_failed")
    assert says(silent, InfrastructureError).startswith("timeout")
    assert says(body(b"x", "Content-Encoding: gzip"), ConfigurationError).startswith("encoded_body")
    assert says(redirect(f"http://10.0.0.1:{server.port}/"), ConfigurationError).startswith("private_address")
    closed = fetch.model_copy(update={"allowed_private_hosts": []})
    assert "private_address" in refused(smoke, env, closed, f"{site}/{NUMBERED}", ConfigurationError)


def test_a_redirect_leads_to_the_shard(
    smoke: Params, env: Environment, fetch: Fetch, server: Server, site: str, tars: dict[str, bytes]
) -> None:
    server.answers["/store"] = body(tars["00001.tar"])
    server.answers["/cc/00001.tar"] = redirect(server.url("/store"))
    assert made(smoke, env, fetch, f"{site}/{NUMBERED}") == made(smoke, env, fetch, "cc3m/*.tar")


def test_buckets_that_do_not_give_a_shard(
    smoke: Params,
    env: Environment,
    fetch: Fetch,
    prefix: str,
    s3_endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = made(smoke, env, fetch, "cc3m/*.tar")

    def cut_once(exchange: Exchange) -> str | None:
        is_first = exchange.method == "GET" and "00001.tar" in exchange.name and exchange.number < 8
        return "cut_answer" if is_first else None

    with proxy(s3_endpoint, fault=cut_once) as address, monkeypatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL_S3", address)
        assert made(smoke, env, fetch, f"{prefix}/*.tar") == here
    boto3.client("s3").put_object(Bucket=prefix.split("/")[2], Key="cc/00001.tar", Body=b"x" * 600)
    with pytest.raises(DataError, match=r"s3://.*/cc/00001\.tar came and is no whole tar"):
        made(smoke, env, fetch, f"{prefix}/{NUMBERED}")
    with pytest.raises(DataError, match=r"cc/00003\.tar not found; put it there or correct its name"):
        made(smoke, env, fetch, f"{prefix}/{{00002..00003}}.tar")
    with pytest.raises(
        ConfigurationError, match=r"no object fits s3://.*/cc/x\*\.tar; expected at least one"
    ):
        made(smoke, env, fetch, f"{prefix}/x*.tar")
    with pytest.raises(ConfigurationError, match="there is no such bucket"):
        made(smoke, env, fetch, "s3://another-bucket/*.tar")
    assert hashes() == here


def test_what_a_source_is_called_does_not_mix_its_shards_with_those_of_another_path() -> None:
    inputs = Inputs(Path("in"), Path("brought"))
    far = shards(path="https://a/b/1.tar")
    other = far.model_copy(update={"path": "https://a/c/1.tar"})
    assert isinstance(far, Shards)
    assert inputs.of(far) != inputs.of(other)
    assert inputs.of(shards(path="b/1.tar")) == Path("in")
