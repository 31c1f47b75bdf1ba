from __future__ import annotations

import asyncio
import errno
import gzip
import io
import itertools
import json
import random
import signal
import threading
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.download import download_stats, shard_fetcher, stage
from components.download.answers import Body
from components.download.fetching import Fetcher
from components.download.ledger import BEFORE, LEDGER, read_ledger
from components.download.pictures import Picture, picture_of
from components.download.refusal import Refused
from components.download.shard import DownloadShard
from components.download.spool import Spool, SpoolRange
from components.download.stage import run
from components.errors import ConfigurationError, DataError, InfrastructureError
from components.running.jobs import ProgressReporter
from components.settings.download import Download, Fetch, Images
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.sources import CaptionColumn, Folder, TextTable, UrlList
from components.storage.atomic import read_json
from components.storage.manifest import read_manifest
from components.storage.shards import Pair, pairs_in_use, shards_of
from components.storage.side_tables import read_captions, read_table
from tests.download.server import Server, body, drip, endless, late, raw, redirect, status
from tests.threaded import stopped_once

OUT = Path("artifacts/download")
FIELDS: dict[str, Any] = {
    "sha256": None,
    "key_column": "id",
    "split_column": None,
    "split": "train",
    "limit": None,
    "columns": None,
}
CAPTIONS = [CaptionColumn(column="words", name="alt", language="en")]


def jpeg(number: int) -> bytes:
    file = io.BytesIO()
    draw = random.Random(number)  # noqa: S311
    Image.frombytes("RGB", (40, 30), draw.randbytes(40 * 30 * 3)).save(file, "JPEG")
    return file.getvalue()


def gif() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def url_source(rows: list[dict[str, Any]], name: str = "web", **changes: Any) -> UrlList:
    """Write a url list below inputs and return the source that reads it."""
    pq.write_table(pa.Table.from_pylist(rows), Path("inputs/demo") / f"{name}.parquet")
    fields = {
        "kind": "url_list",
        "name": name,
        "path": f"{name}.parquet",
        "url_column": "link",
        "sha256_column": None,
        "weight": None,
        "captions": CAPTIONS,
    }
    return UrlList(**{**FIELDS, **fields, **changes})


def row(server: Server, path: str, words: str | list[str] = "some words") -> dict[str, Any]:
    return {"id": path.strip("/"), "link": server.url(path), "words": words}


def with_sources(smoke: Params, sources: list[Any], fetch: Fetch | None = None, **changes: Any) -> Params:
    update = {"sources": sources, "fetch": fetch or smoke.download.fetch, "shard_rows": 8, **changes}
    return smoke.model_copy(update={"download": smoke.download.model_copy(update=update)})


def pairs() -> list[Pair]:
    return [pair for shard in shards_of(OUT) for pair in pairs_in_use(OUT, shard, Path(".work"))]


def hashes() -> dict[str, str]:
    return {entry.uri: entry.sha256 for entry in read_manifest(OUT)}


def ledger() -> dict[str, tuple[str, str | None]]:
    """Return status and message by key, over all shards."""
    tables = [read_table(path, LEDGER) for path in sorted((OUT / "rows").glob("*.parquet"))]
    return {one["key"]: (one["status"], one["error_message"]) for one in pa.concat_tables(tables).to_pylist()}


@pytest.fixture
def web(workspace: Path, server: Server) -> list[dict[str, Any]]:
    """Thirty images on the server, and their url list."""
    paths = [f"/{number:02d}" for number in range(30)]
    server.answers |= {path: body(jpeg(number)) for number, path in enumerate(paths)}
    return [row(server, path, f"image {path}") for path in paths]


def test_scenes_become_shards_and_texts(workspace: Path, smoke: Params, env: Environment) -> None:
    run(smoke, env)
    found = pairs()
    assert len(found) == 256
    train = [pair for pair in found if pair.metadata["split"] == "train"]
    assert {one["column"] for pair in train for one in pair.metadata["captions"]} == {"alt"}
    assert all(pair.caption == pair.metadata["captions"][0]["text"] for pair in found)
    test = next(pair for pair in found if pair.metadata["split"] == "test")
    assert [(one["column"], one["number"]) for one in test.metadata["captions"]] == [
        ("alt", 0), ("short", 0), ("dense", 0), ("dense", 1), ("short_de", 0), ("dense_de", 0),
    ]  # fmt: skip
    assert set(test.metadata) == {*BEFORE.names, "labels", "captions"}
    assert Image.open(io.BytesIO(test.jpeg)).size == (64, 64)
    texts = read_captions(OUT / "texts" / "00000.parquet")
    assert len({caption.key for caption in texts}) == 224
    assert len(texts) == 224 * 6
    metrics = read_json(Path("metrics/download.json"))
    assert (metrics["rows_in"], metrics["rows_out"], metrics["rejected"]) == (480, 480, {})
    assert metrics["images"]["splits"] == {"train": 192, "validation": 32, "test": 32}
    tars = [entry.bytes for entry in read_manifest(OUT) if entry.uri.endswith(".tar")]
    assert metrics["images"]["shard_bytes"] == sum(tars)
    assert metrics["images"]["original_bytes"] == sum(len(pair.jpeg) for pair in found)
    stats = read_json(OUT / "shards" / "00000_stats.json")
    assert (stats["count"], stats["successes"], stats["status_dict"]) == (64, 64, {"success": 64})


def test_every_hostile_row_is_rejected_by_its_reason_and_no_other(
    workspace: Path, smoke: Params, env: Environment, server: Server, fetch: Fetch
) -> None:
    good = jpeg(1)
    server.answers |= {
        "/good": body(good),
        "/moved": redirect("/good"),
        "/internal": redirect(f"http://169.254.169.254:{server.port}/"),
        "/slow": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"),
        "/huge": endless(b"HTTP/1.1 200 OK\r\n\r\n"),
        "/page": body(b"<html>gone</html>", "Content-Type: image/jpeg"),
        "/cut": body(good[: len(good) // 2]),
        "/short": body(good[:100], length=len(good)),
        "/unending": raw(b"HTTP/1.1 200 OK\r\n\r\n" + good[: len(good) // 2]),
        "/moving": body(gif()),
        "/gzip": body(gzip.compress(good), "Content-Encoding: gzip"),
        "/bomb": body(gzip.compress(bytes(10_000_000)), "Content-Encoding: gzip"),
        "/brotli": body(good, "Content-Encoding: br"),
        "/wordless": body(good),
    }
    rows = [row(server, path, " " if path == "/wordless" else "words") for path in server.answers]
    rows += [row(server, "/gone"), {"id": "again", "link": server.url("/good"), "words": "the same url"}]
    rows += [{"id": "local", "link": "file:///etc/passwd", "words": "words"}]
    rows += [{"id": "secret", "link": "http://user:hunter2@127.0.0.1/", "words": "words"}]
    run(with_sources(smoke, [url_source(rows)], fetch, max_reject_share=0.9), env)
    reasons = {key: message for key, (_, message) in ledger().items()}
    assert reasons == {
        "good": None,
        "moved": None,
        "internal": "private_address",
        "slow": "timeout",
        "huge": "too_large",
        "page": "not_an_image",
        "cut": "truncated",
        "short": "short_body",
        "unending": "truncated",
        "moving": None,
        "gzip": None,
        "bomb": "too_large",
        "brotli": "encoded_body",
        "wordless": "empty_caption: web.parquet row 13",
        "gone": "http_404",
        "local": "scheme_not_allowed",
        "secret": "credentials_in_url",
    }
    metrics = read_json(Path("metrics/download.json"))
    joined = metrics["images"]["joined"]
    assert joined == 1  # `again` has the url of `good`
    assert metrics["rows_in"] + joined == len(rows)
    assert metrics["rows_in"] == metrics["rows_out"] + sum(metrics["rejected"].values())
    assert metrics["rejected"]["http_404"] == server.hits["/gone"] == 1
    assert [pair.key for pair in pairs()] == ["good", "moved", "moving", "gzip"]
    assert [pair.metadata["is_animated"] for pair in pairs()] == [False, False, True, False]
    assert metrics["images"]["animated"] == 1
    assert not any(b"hunter2" in path.read_bytes() for path in OUT.rglob("*") if path.is_file())
    statuses = {key: status for key, (status, _) in ledger().items()}
    assert (statuses["good"], statuses["gone"], statuses["cut"]) == (
        "success",
        "failed_to_download",
        "failed_to_resize",
    )


def test_bytes_follow_the_input_and_never_the_network(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: list[dict[str, Any]]
) -> None:
    sources, found = [url_source(web)], []
    for seed, connections, processes in ((1, 16, 1), (2, 16, 2), (3, 1, 1), (4, 32, 4)):
        draw = random.Random(seed)  # noqa: S311
        for number in range(len(web)):
            server.answers[f"/{number:02d}"] = late(body(jpeg(number)), draw.uniform(0, 0.02))
        own = fetch.model_copy(update={"connections": connections, "deadline_seconds": 60.0})
        run(
            with_sources(smoke, sources, own),
            Environment(work_store=Path(f".work{seed}"), processes=processes),
        )
        found.append((hashes(), Path("metrics/download.json").read_bytes()))
        assert [pair.key for pair in pairs()] == [one["id"] for one in web]
    assert found == found[:1] * 4
    assert server.hits["/00"] == 4


def test_only_what_changed_is_fetched_again(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: list[dict[str, Any]]
) -> None:
    run(with_sources(smoke, [url_source(web)], fetch), env)
    before = hashes()
    run(with_sources(smoke, [url_source(web)], fetch.model_copy(update={"connections": 3})), env)
    assert hashes() == before
    assert set(server.hits.values()) == {1}
    web[20]["words"] = "other words"
    run(with_sources(smoke, [url_source(web)], fetch), env)
    assert set(server.hits.values()) == {1}
    assert {name for name, sha in hashes().items() if before[name] != sha} == {
        "captions/00002.parquet",
        "rows/00002.parquet",
    }
    assert {pair.key: pair.caption for pair in pairs()}["20"] == "other words"


def test_a_stop_signal_ends_the_fetching_and_the_rerun_goes_on_by_shard(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: list[dict[str, Any]]
) -> None:
    params = with_sources(smoke, [url_source(web)], fetch.model_copy(update={"deadline_seconds": 60.0}))
    asked = threading.Event()
    alone = Environment(work_store=env.work_store, processes=1)

    async def hold(_writer: object) -> None:
        asked.set()
        await asyncio.sleep(60)

    server.answers["/12"] = [hold, body(jpeg(12))]  # of the second shard
    with stopped_once(asked):
        run(params, alone)
    assert not OUT.exists()
    run(params, alone)
    assert server.hits["/00"] == 1
    assert [pair.key for pair in pairs()] == [one["id"] for one in web]


def test_a_folder_and_a_text_table_go_the_same_way(workspace: Path, smoke: Params, env: Environment) -> None:
    folder = Path("inputs/demo/pictures")
    (folder / "below").mkdir(parents=True)
    for number in range(3):
        (folder / "below" / f"{number}.jpg").write_bytes(jpeg(number))
    Path("inputs/demo/list.csv").write_text(
        "id,file,words\n" + "".join(f'{n},below/{n}.jpg,"one, {n}"\n' for n in range(4)), "utf-8"
    )
    Path("inputs/demo/texts.tsv").write_text("id\twords\nt1\tno image\nt2\t\nt3\tnone either\n", "utf-8")
    pictures = Folder(**FIELDS, kind="folder", name="local", path="list.csv", captions=CAPTIONS,
                      images="pictures", image_column="file", weight=None)  # fmt: skip
    texts = TextTable(**FIELDS, kind="text_table", name="told", path="texts.tsv", captions=CAPTIONS)
    run(with_sources(smoke, [texts, pictures], max_reject_share=0.5), env)
    assert [(pair.key, pair.caption, pair.metadata["url"]) for pair in pairs()] == [
        (str(number), f"one, {number}", f"below/{number}.jpg") for number in range(3)
    ]
    assert [caption.key for caption in read_captions(OUT / "texts" / "00000.parquet")] == ["t1", "t3"]
    metrics = read_json(Path("metrics/download.json"))
    assert metrics["rejected"] == {"empty_caption": 1, "image_missing": 1}
    assert (metrics["images"]["rows_in"], metrics["texts"]["rows_in"]) == (4, 3)
    where = "of its entry in download.sources"
    for limit, message in (
        (0.1, "image_missing: first inputs/demo/pictures/below/3.jpg of source local, decided by images "
              f"{where}: no file of that path"),
        (0.3, "empty_caption: first texts.tsv line 3 of source told, decided by a caption in at least one "
              f"column of captions {where}"),
    ):  # fmt: skip
        with pytest.raises(DataError) as caught:
            run(with_sources(smoke, [texts, pictures], max_reject_share=limit), env)
        assert str(caught.value).split("\n")[1] == message
    kept, before = hashes(), {pair.key: pair.jpeg for pair in pairs()}
    (folder / "below" / "1.jpg").write_bytes(jpeg(9))  # the same name, another image
    run(with_sources(smoke, [texts, pictures], max_reject_share=0.5), env)
    assert hashes()["shards/00000.tar"] == kept["shards/00000.tar"]
    after = {pair.key: pair.jpeg for pair in pairs()}
    assert after.keys() == before.keys() and {key for key in after if after[key] != before[key]} == {"1"}


def test_what_decides_is_named_with_the_first_row_and_the_file_of_all(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: list[dict[str, Any]]
) -> None:
    closed = with_sources(smoke, [url_source(web)], fetch.model_copy(update={"allowed_ports": [80, 443]}))
    for _ in range(2):  # the second time from finished shards
        with pytest.raises(DataError) as caught:
            run(closed, env)
        assert str(caught.value).split("\n") == [
            "download: none of 30 rows is left (port_not_allowed 30); expected at least one",
            f"port_not_allowed: first {web[0]['link']} of source {url_source(web).name}, decided by "
            "download.fetch.allowed_ports [80, 443]",
            f"every reason with its first row: {env.work_store / 'download' / 'rejected.json'}",
        ]


def test_too_many_rejected_rows_stop_the_stage_and_are_asked_for_again(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: list[dict[str, Any]]
) -> None:
    for number in range(16):
        server.answers[f"/{number:02d}"] = status(503)
    params = with_sources(smoke, [url_source(web)], fetch.model_copy(update={"retries": 0}))
    with pytest.raises(DataError, match=r"16 of 30 rows rejected \(http_503 16\).*max_reject_share"):
        run(params, env)
    assert not OUT.exists()
    for number in range(16):
        server.answers[f"/{number:02d}"] = body(jpeg(number))
    run(params, env)
    assert len(pairs()) == 30
    assert server.hits["/20"] == 1


def test_what_came_is_not_asked_for_again_when_the_rest_is(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: list[dict[str, Any]]
) -> None:
    reference = with_sources(smoke, [url_source(web)], fetch)
    run(reference, Environment(work_store=Path(".other")))
    expected = hashes()
    server.hits.clear()
    for number in (3, 4, 20):
        server.answers[f"/{number:02d}"] = [status(503), body(jpeg(number))]
    impatient = fetch.model_copy(update={"retries": 0})
    with pytest.raises(DataError, match=r"3 of 30 rows rejected \(http_503 3\)"):
        run(with_sources(smoke, [url_source(web)], impatient, max_reject_share=0.05), env)
    run(with_sources(smoke, [url_source(web)], impatient, max_reject_share=0.05), env)
    assert {path for path, count in server.hits.items() if count > 1} == {"/03", "/04", "/20"}
    assert hashes() == expected


def test_another_round_asks_for_what_may_have_passed_and_nothing_else(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: list[dict[str, Any]]
) -> None:
    reference = with_sources(smoke, [url_source(web)], fetch)
    run(reference, Environment(work_store=Path(".other")))
    expected = hashes()
    server.hits.clear()
    server.answers["/03"] = [status(503), body(jpeg(3))]
    server.answers["/04"] = [status(404), body(jpeg(4))]
    impatient = fetch.model_copy(update={"retries": 0})
    run(with_sources(smoke, [url_source(web)], impatient), env)
    assert {key for key, (status, _) in ledger().items() if status != "success"} == {"03", "04"}
    run(with_sources(smoke, [url_source(web)], impatient, retry_rounds=1), env)
    assert {key: message for key, (_, message) in ledger().items() if message} == {"04": "http_404"}
    assert {path for path, count in server.hits.items() if count > 1} == {"/03"}
    assert {pair.key for pair in pairs()} == {one["id"] for one in web} - {"04"}
    assert [entry.key for entry in read_ledger(OUT / "shards" / "00004.parquet")] == ["03"]
    assert all(
        expected[f"shards/0000{number}.tar"] == hashes()[f"shards/0000{number}.tar"] for number in (1, 2, 3)
    )


def test_fewer_rounds_throw_no_picture_away(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: list[dict[str, Any]]
) -> None:
    server.answers["/03"] = [status(504), body(jpeg(3))]
    impatient = fetch.model_copy(update={"retries": 0})
    run(with_sources(smoke, [url_source(web)], impatient, retry_rounds=1), env)
    asked = dict(server.hits)
    server.answers.clear()
    run(with_sources(smoke, [url_source(web)], impatient, retry_rounds=0), env)
    assert len(pairs()) == 30
    assert dict(server.hits) == asked


def test_a_body_that_many_urls_answer_with_is_no_picture(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: list[dict[str, Any]]
) -> None:
    for number in (1, 2, 3, 6):
        server.answers[f"/{number:02d}"] = body(jpeg(99))
    for number in (9, 10):
        server.answers[f"/{number:02d}"] = body(jpeg(98))
    run(with_sources(smoke, [url_source(web)], fetch, max_urls_per_body=3, max_reject_share=0.5), env)
    assert {key: message for key, (_, message) in ledger().items() if message} == {
        key: "placeholder_suspect" for key in ("01", "02", "03", "06")
    }
    assert len(pairs()) == 26


class CrashingShard(DownloadShard):
    """One whose decoder crashes at an image, as a bug in a library would have it."""

    def _make(self, reporter: ProgressReporter, folder: Path) -> None:
        def decoder(data: bytes, images: Images) -> Picture:
            if data == jpeg(12):
                signal.raise_signal(signal.SIGSEGV)
            return picture_of(data, images)

        shard_fetcher.picture_of = decoder  # type: ignore[attr-defined]
        super()._make(reporter, folder)


class HangingShard(DownloadShard):
    """One whose decoder never ends at an image, and never lets go of the interpreter's lock."""

    def _make(self, reporter: ProgressReporter, folder: Path) -> None:
        def decoder(data: bytes, images: Images) -> Picture:
            return picture_of(data, images) if data != jpeg(12) else _for_ever()

        shard_fetcher.picture_of = decoder  # type: ignore[attr-defined]
        super()._make(reporter, folder)


def _for_ever() -> Picture:
    while True:
        pass


class SurprisingShard(DownloadShard):
    """One in which every third picture, and the fetching of one, fails as nobody foresaw."""

    def _make(self, reporter: ProgressReporter, folder: Path) -> None:
        fetched = Fetcher.fetched

        def decoder(data: bytes, images: Images) -> Picture:
            if data in [jpeg(number) for number in range(0, 30, 3)]:
                raise KeyError("nobody foresaw this")
            return picture_of(data, images)

        def fetcher(self: Fetcher, text: str) -> AbstractAsyncContextManager[Body]:
            if text.endswith("/07"):
                raise UnicodeError("nor this")
            return fetched(self, text)

        shard_fetcher.picture_of = decoder  # type: ignore[attr-defined]
        Fetcher.fetched = fetcher  # type: ignore[method-assign, assignment]
        super()._make(reporter, folder)


class FullDiskShard(DownloadShard):
    """One that cannot keep a picture."""

    def _make(self, reporter: ProgressReporter, folder: Path) -> None:
        def put(self: Spool, data: bytes) -> SpoolRange:
            raise OSError(errno.ENOSPC, "No space left on device")

        Spool.put = put  # type: ignore[method-assign]
        super()._make(reporter, folder)


class CutOffShard(DownloadShard):
    """One for which no name can be looked up from the twelfth row on."""

    def _make(self, reporter: ProgressReporter, folder: Path) -> None:
        fetched = Fetcher.fetched

        def cut_off(self: Fetcher, text: str) -> AbstractAsyncContextManager[Body]:
            if text[-2:] >= "12":
                raise Refused("dns_failed", may_pass=True)
            return fetched(self, text)

        Fetcher.fetched = cut_off  # type: ignore[method-assign, assignment]
        super()._make(reporter, folder)


@pytest.mark.parametrize("kind", [CrashingShard, HangingShard])
def test_an_image_that_crashes_or_hangs_the_decoder_costs_its_own_row(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch, kind: type[DownloadShard],
) -> None:  # fmt: skip
    monkeypatch.setattr(stage, "DownloadShard", kind)
    images = smoke.download.images.model_copy(update={"decode_deadline_seconds": 2.0})
    patient = fetch.model_copy(update={"deadline_seconds": 60.0})
    run(with_sources(smoke, [url_source(web)], patient, images=images), env)
    assert {key: message for key, (_, message) in ledger().items() if message} == {"12": "decoder_died"}
    assert [pair.key for pair in pairs()] == [one["id"] for one in web if one["id"] != "12"]


def test_what_nobody_foresaw_costs_its_own_row_and_is_told_once(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(stage, "DownloadShard", SurprisingShard)
    patient = fetch.model_copy(update={"deadline_seconds": 60.0})
    params = with_sources(smoke, [url_source(web)], patient, max_reject_share=0.5)
    run(params, env)
    bad = [f"{number:02d}" for number in sorted({*range(0, 30, 3), 7})]
    assert {key: message for key, (_, message) in ledger().items() if message} == dict.fromkeys(
        bad, "unexpected"
    )
    metrics = read_json(Path("metrics/download.json"))
    assert (metrics["rows_in"], metrics["rows_out"], metrics["rejected"]) == (30, 19, {"unexpected": 11})
    told = [record.getMessage() for record in caplog.records if "unexpected" in record.getMessage()]
    kinds = sorted(text.partition(" in row ")[0] for text in told)
    assert kinds == ["download: unexpected KeyError", "download: unexpected UnicodeError"]
    fetching = next(text for text in told if "UnicodeError" in text)
    assert f"in row 07 ({server.url('/07')}); the row is rejected as unexpected" in fetching
    assert fetching.endswith("UnicodeError: nor this")
    assert "Traceback (most recent call last):" in fetching
    hits = server.hits.total()
    run(params, env)
    assert server.hits.total() == hits  # as settled as any other reason
    with pytest.raises(DataError, match=r"11 of 30 rows rejected \(unexpected 11\)"):
        run(with_sources(smoke, [url_source(web)], patient, max_reject_share=0.3), env)


def test_what_every_row_would_die_of_still_ends_the_stage(
    smoke: Params, env: Environment, fetch: Fetch, web: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "DownloadShard", FullDiskShard)
    with pytest.raises(OSError, match="No space left"):
        run(with_sources(smoke, [url_source(web)], fetch), env)


def test_the_ledger_says_where_a_redirect_ended(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: list[dict[str, Any]]
) -> None:
    server.answers["/05"] = redirect("/moved")
    server.answers["/moved"] = body(jpeg(5))
    run(with_sources(smoke, [url_source(web)], fetch), env)
    entries = {one.key: one for one in read_ledger(OUT / "shards" / "00000.parquet")}
    assert (entries["05"].url, entries["05"].final_url) == (server.url("/05"), server.url("/moved"))
    assert entries["04"].final_url is None
    assert entries["05"].original_bytes == len(jpeg(5))


def test_no_image_and_no_network_are_told_apart(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    gone = [row(server, f"/gone/{number}") for number in range(3)]
    with pytest.raises(DataError, match="none of 3 rows is left"):
        run(with_sources(smoke, [url_source(gone)], fetch), env)
    dead = [{**one, "link": f"http://127.0.0.1:1/{one['id']}"} for one in web]
    closed = fetch.model_copy(update={"allowed_ports": [1], "retries": 0})
    with pytest.raises(InfrastructureError, match="no network: 30 of 30"):
        run(with_sources(smoke, [url_source(dead)], closed), env)
    monkeypatch.setattr(download_stats, "DEAD_NETWORK_ROWS", 8)
    with pytest.raises(InfrastructureError, match="no network: 8 connections failed"):
        run(with_sources(smoke, [url_source(dead)], closed, shard_rows=8), env)
    nameless = [{**one, "link": f"http://host{one['id']}.invalid/"} for one in web]
    with pytest.raises(InfrastructureError, match="no network: 8 connections failed"):
        run(
            with_sources(smoke, [url_source(nameless)], fetch.model_copy(update={"allowed_ports": [80]})), env
        )


def test_a_network_that_dies_in_the_middle_stops_the_stage_and_costs_no_row(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Rows 12 to 29 lack a name server at first; the second shard has lost half of its rows by then."""
    monkeypatch.setattr(download_stats, "DEAD_NETWORK_ROWS", 4)
    monkeypatch.setattr(download_stats, "DEAD_NETWORK_HOSTS", 1)
    patient = fetch.model_copy(update={"deadline_seconds": 60.0, "retries": 0})
    run(with_sources(smoke, [url_source(web)], patient), Environment(work_store=Path(".other")))
    expected = hashes()
    monkeypatch.setattr(stage, "DownloadShard", CutOffShard)
    with pytest.raises(InfrastructureError, match="no network: 8 connections failed"):
        run(with_sources(smoke, [url_source(web)], patient, max_reject_share=1.0), env)
    monkeypatch.setattr(stage, "DownloadShard", DownloadShard)
    run(with_sources(smoke, [url_source(web)], patient, max_reject_share=1.0), env)
    assert hashes() == expected


def test_a_finished_shard_of_failed_connections_alone_is_asked_for_again(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    params = with_sources(smoke, [url_source(web)], fetch, max_reject_share=1.0, shard_rows=4)
    monkeypatch.setattr(stage, "DownloadShard", CutOffShard)
    run(params, env)
    assert len(pairs()) == 12
    monkeypatch.setattr(stage, "DownloadShard", DownloadShard)
    run(params, env)
    assert [pair.key for pair in pairs()] == [one["id"] for one in web]
    assert set(server.hits.values()) == {1}


def test_a_host_that_died_is_no_dead_network(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(download_stats, "DEAD_NETWORK_ROWS", 4)
    mixed = [{**one, "link": f"http://127.0.0.1:1/{one['id']}"} if one["id"] > "11" else one for one in web]
    both = fetch.model_copy(
        update={"allowed_ports": [1, server.port], "retries": 0, "deadline_seconds": 60.0}
    )
    run(with_sources(smoke, [url_source(mixed)], both, max_reject_share=0.9), env)
    assert read_json(Path("metrics/download.json"))["rejected"] == {"connection_failed": 18}


def test_equal_keys_stop_before_anything_is_fetched(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: list[dict[str, Any]]
) -> None:
    other = [{**web[0], "id": "07", "link": server.url("/other")}]
    sources = [url_source(web), url_source(other, "more")]
    with pytest.raises(DataError, match="key 07 occurs twice, in source web and in more"):
        run(with_sources(smoke, sources, fetch), env)
    assert server.hits.total() == 0


def test_a_run_without_images_is_refused(workspace: Path, smoke: Params, env: Environment) -> None:
    with pytest.raises(ConfigurationError, match="gives no image row"):
        run(with_sources(smoke, smoke.download.sources[1:]), env)


def test_two_sources_need_two_names(smoke: Params) -> None:
    tree = json.loads(smoke.download.model_dump_json())
    tree["sources"] = list(itertools.chain(tree["sources"], tree["sources"][:1]))
    with pytest.raises(ValueError, match="two sources have one name"):
        Download.model_validate(tree)
