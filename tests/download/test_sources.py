"""Every kind of source through the stage: what it gives, what it counts, and how several are mixed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from components.cli.check import check
from components.download.stage import run
from components.errors import ConfigurationError, InfrastructureError
from components.settings.download import Fetch
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.sources import CaptionColumn, Coco, Shards, Sidecars, UrlList
from components.sources.values import normal_key
from components.storage.atomic import read_json
from components.storage.shards import read_pairs, shards_of
from components.storage.side_tables import read_table
from tests.cli.test_main import dvc_without_git
from tests.download.server import Server, body
from tests.download.test_stage import OUT, hashes, jpeg, ledger, pairs, row, url_source, with_sources
from tests.storage.test_tar_index import tar

INPUTS = Path("inputs/demo")
TXT = [CaptionColumn(column="txt", name="alt", language="en")]


def shards(name: str, **changes: Any) -> Shards:
    fields: dict[str, Any] = {
        "kind": "shards", "name": name, "path": name, "sha256": None, "split": "train", "split_column": None,
        "txt_lines": False, "captions": TXT, "limit": None, "weight": None,
    }  # fmt: skip
    return Shards(**{**fields, **changes})


def put_shard(name: str, count: int, size: int = 0) -> None:
    (INPUTS / name).mkdir(exist_ok=True)
    members = []
    for number in range(count):
        members += [
            (f"{number}.jpg", jpeg(number) + b"\0" * size),
            (f"{number}.txt", f"{name} {number}".encode()),
        ]
    tar(INPUTS / name / "00000.tar", members)


def test_bytes_that_are_not_the_pinned_ones_are_rejected_and_told(
    workspace: Path, smoke: Params, env: Environment, server: Server, fetch: Fetch
) -> None:
    server.answers |= {f"/{number}": body(jpeg(number)) for number in range(3)}
    pins = [hashlib.sha256(jpeg(0)).hexdigest().upper(), "0" * 64, None]
    rows = [{**row(server, f"/{number}"), "pin": pin} for number, pin in enumerate(pins)]
    params = with_sources(smoke, [url_source(rows, sha256_column="pin")], fetch, max_reject_share=0.5)
    run(params, env)
    assert ledger() == {
        "0": ("success", None),
        "1": ("failed_to_download", "hash_mismatch"),
        "2": ("success", None),
    }
    found = read_table(OUT / "shards" / "00000.parquet").column("sha256").to_pylist()
    assert found[1] == hashlib.sha256(jpeg(1)).hexdigest()  # what came instead
    assert read_json(Path("metrics/download.json"))["rejected"] == {"hash_mismatch": 1}
    rows[1]["pin"] = found[1]
    run(with_sources(params, [url_source(rows, sha256_column="pin")], fetch), env)
    assert len(pairs()) == 3


def test_an_earlier_ledger_is_a_url_list_that_reports_every_changed_body(
    workspace: Path, smoke: Params, env: Environment, server: Server, fetch: Fetch
) -> None:
    """First seen, first trusted: a body that an expired domain has swapped is told from the one of before."""
    patient = fetch.model_copy(update={"deadline_seconds": 60.0})
    server.answers |= {f"/{number}": body(jpeg(number)) for number in range(200)}
    rows = [{**row(server, f"/{number}"), "id": f"Row {number}"} for number in range(200)]
    rows[7]["link"] = server.url("/gone")
    split: dict[str, Any] = {"split": None, "split_column": "part"}
    rows = [{**one, "part": "test" if number % 9 == 0 else "train"} for number, one in enumerate(rows)]
    run(with_sources(smoke, [url_source(rows, **split)], patient), env)
    before = {pair.key: (pair.jpeg, pair.caption, pair.metadata["split"]) for pair in pairs()}
    assert len(before) == 199
    shutil.copytree(OUT / "shards", INPUTS / "earlier")
    swapped = (12, 90, 199)  # between 1 and 2 in a hundred
    for number in swapped:
        server.answers[f"/{number}"] = body(jpeg(1000 + number))
    server.answers["/gone"] = body(jpeg(7))  # it has no pin: it never came
    earlier = UrlList(
        kind="url_list", name="earlier", path="earlier/*.parquet", sha256=None, columns=None,
        key_column="key", url_column="url", sha256_column="sha256", split_column="split", split=None,
        captions=[CaptionColumn(column="caption", name="alt", language="en")], limit=None, weight=None,
    )  # fmt: skip
    run(with_sources(smoke, [earlier], patient), Environment(work_store=Path(".other")))
    rejected = {key: message for key, (_, message) in ledger().items() if message}
    assert rejected == {normal_key(f"Row {number}"): "hash_mismatch" for number in swapped}
    after = {pair.key: (pair.jpeg, pair.caption, pair.metadata["split"]) for pair in pairs()}
    assert after.pop(normal_key("Row 7"))[0]
    assert after == {key: value for key, value in before.items() if key not in rejected}


def test_shards_go_through_and_are_read_again_when_an_image_changes(
    workspace: Path, smoke: Params, env: Environment
) -> None:
    put_shard("cc", 10)
    put_shard("huge", 1, size=smoke.download.fetch.max_bytes)
    params = with_sources(smoke, [shards("cc"), shards("huge")], max_reject_share=0.5)
    run(params, env)
    assert [(pair.key, pair.caption, pair.metadata["url"]) for pair in pairs()] == [
        (f"cc_00000_{number}", f"cc {number}", f"00000.tar/{number}.jpg") for number in range(10)
    ]
    assert ledger()["huge_00000_0"] == ("failed_to_download", "too_large")
    before = hashes()
    members = [(f"{n}.{kind}", jpeg(99) if n == 9 else jpeg(n)) for n in range(10) for kind in ("jpg",)]
    texts = [(f"{number}.txt", f"cc {number}".encode()) for number in range(10)]
    tar(INPUTS / "cc" / "00000.tar", [one for both in zip(members, texts, strict=True) for one in both])
    run(params, env)
    assert {name for name in hashes().keys() - before.keys() if name.endswith("tar")} == {"shards/00002.tar"}
    assert all(sha == hashes()[name] for name, sha in before.items() if name.endswith("tar"))
    assert [pair.key for pair in pairs()] == [f"cc_00000_{number}" for number in range(10)]


def test_weights_mix_sources_in_every_shard(workspace: Path, smoke: Params, env: Environment) -> None:
    for name, count in (("first", 4), ("three", 18), ("one", 6)):
        put_shard(name, count)
    sources = [shards("three", weight=3.0), shards("first"), shards("one", weight=1.0)]
    run(with_sources(smoke, sources, shard_rows=4), env)
    mixtures = [
        Counter(pair.metadata["source"] for pair in read_pairs(OUT, shard, Path(".work")))
        for shard in shards_of(OUT)
    ]
    assert mixtures == [{"first": 4}, *[{"three": 3, "one": 1}] * 6]
    assert len({pair.key for pair in pairs()}) == 28


def test_coco_s_urls_are_fetched_and_no_network_is_told(
    workspace: Path, smoke: Params, env: Environment, server: Server, fetch: Fetch
) -> None:
    server.answers |= {f"/{number}": body(jpeg(number)) for number in range(3)}

    def coco(*urls: str) -> Coco:
        images = [{"id": number, "coco_url": f"{url}/{number}"} for number, url in enumerate(urls)]
        said = [{"image_id": number, "caption": f"said {number}"} for number in range(3)]
        (INPUTS / "captions.json").write_text(json.dumps({"images": images, "annotations": said}))
        return Coco(
            kind="coco", name="coco", path="captions.json", sha256=None, split="train", images=None,
            url_field="coco_url", captions=[CaptionColumn(column="caption", name="alt", language="en")],
            limit=None, weight=None,
        )  # fmt: skip

    run(with_sources(smoke, [coco(*[server.url("")] * 3)], fetch), env)
    assert [(pair.key, pair.caption) for pair in pairs()] == [(f"coco_{n}", f"said {n}") for n in range(3)]
    closed = fetch.model_copy(update={"allowed_ports": [1, server.port], "retries": 0})
    dead = "http://127.0.0.1:1"
    with pytest.raises(InfrastructureError, match="no network: 3 of 3"):
        run(with_sources(smoke, [coco(dead, dead, dead)], closed), env)
    with pytest.raises(InfrastructureError, match="the network failed: 2 of 3"):
        run(with_sources(smoke, [coco(dead, server.url(""), dead)], closed), env)


def test_real_photographs_by_coco_s_file_and_by_sidecars_are_the_same(
    workspace: Path, smoke: Params, env: Environment, shared: Path
) -> None:
    data = shared / "data" / "coco_mini"
    images, annotations, folder = [], [], INPUTS / "beside"
    folder.mkdir()
    for number, one in enumerate(json.loads((data / "captions.json").read_text("utf-8"))[:12]):
        name = Path(one["image"]).name
        images.append({"id": number, "file_name": name})
        annotations += [{"image_id": number, "caption": text} for text in one["captions"]]
        (folder / name).write_bytes((data / one["image"]).read_bytes())
        (folder / name).with_suffix(".txt").write_text("\n".join(one["captions"]), "utf-8")
    (INPUTS / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations[::-1]}))
    said = [CaptionColumn(column="caption", name="alt", language="en")]
    coco = Coco(
        kind="coco", name="coco", path="captions.json", sha256=None, split="test", images="beside",
        url_field=None, captions=said, limit=None, weight=None,
    )  # fmt: skip
    beside = Sidecars(
        kind="sidecars", name="beside", path="beside", split="test", split_column=None, txt_lines=True,
        captions=TXT, limit=None, weight=None,
    )  # fmt: skip
    run(with_sources(smoke, [coco, beside], shard_rows=12), env)
    one, other = ([*read_pairs(OUT, shard, Path(".work"))] for shard in shards_of(OUT))
    assert len(one) == 12
    for ours, theirs in zip(one, sorted(other, key=lambda pair: pair.key), strict=True):
        assert (ours.metadata["url"], ours.jpeg) == (theirs.metadata["url"], theirs.jpeg)
        both = [[text["text"] for text in pair.metadata["captions"]] for pair in (ours, theirs)]
        assert both[0] == both[1][::-1]
        assert len(both[0]) == 5


def test_inputs_that_are_missing_are_told_before_anything_runs(
    workspace: Path, smoke: Params, env: Environment
) -> None:
    dvc_without_git(workspace)
    put_shard("cc", 1)

    def with_shards(path: str) -> Params:
        return with_sources(smoke, [*smoke.download.sources, shards("cc", path=path)])

    assert f"inputs: {INPUTS}, 3 sources" in check(with_shards("c*/*.tar"), env)
    for path in ("cd", "cc/1*.tar"):
        with pytest.raises(
            ConfigurationError, match=r"(cd not found|no file fits .*1\*.tar); inputs/demo(/cc)? holds"
        ):
            check(with_shards(path), env)
