"""A list that changes from week to week: what is fetched, what stays, and what a row's key is."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from components.download.ledger import read_ledger
from components.download.stage import run
from components.errors import DataError
from components.settings.download import Fetch
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.sources import Folder
from components.storage.atomic import read_json, sha256_of
from components.storage.shards import shards_of
from components.storage.side_tables import read_captions
from tests.download.server import Server, body, status
from tests.download.test_stage import (
    CAPTIONS,
    FIELDS,
    OUT,
    hashes,
    jpeg,
    ledger,
    pairs,
    row,
    url_source,
    web,
    with_sources,
)

__all__ = ["web"]  # a fixture
Rows = list[dict[str, Any]]


def images() -> dict[str, tuple[str, bytes, list[str]]]:
    """Return split, bytes and captions of each row by key."""
    return {
        pair.key: (pair.metadata["split"], pair.jpeg, [one["text"] for one in pair.metadata["captions"]])
        for pair in pairs()
    }


def new_hits(server: Server, before: Counter[str]) -> set[str]:
    return {path for path, count in server.hits.items() if count != before[path]}


def tars() -> dict[str, str]:
    return {entry.name: entry.sha256 for entry in shards_of(OUT)}


def test_a_list_in_another_order_changes_no_file(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: Rows
) -> None:
    run(with_sources(smoke, [url_source(web, key_column=None)], fetch), env)
    before, keys, metrics = hashes(), sorted(images()), Path("metrics/download.json").read_bytes()
    run(with_sources(smoke, [url_source(web[::-1], key_column=None)], fetch), env)
    assert (hashes(), sorted(images())) == (before, keys)
    assert Path("metrics/download.json").read_bytes() == metrics
    assert set(server.hits.values()) == {1}


def test_only_new_rows_are_fetched_and_shards_are_written_once(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: Rows
) -> None:
    first, last = web[:24], [*web[3:20], *web[22:]]
    run(with_sources(smoke, [url_source(first)], fetch), env)
    written, hits = tars(), server.hits.copy()
    last[0] = {**last[0], "words": "other words"}
    run(with_sources(smoke, [url_source(last)], fetch), env)
    assert new_hits(server, hits) == {f"/{number}" for number in range(24, 30)}
    assert {name: sha for name, sha in tars().items() if name in written} == written
    weeks, weekly_metrics = images(), read_json(Path("metrics/download.json"))
    run(with_sources(smoke, [url_source(last)], fetch), Environment(work_store=Path(".other")))
    assert images() == weeks
    scratch_metrics = read_json(Path("metrics/download.json"))
    for name in ("rows_in", "rows_out", "rejected"):
        assert weekly_metrics[name] == scratch_metrics[name]
    assert weekly_metrics["images"]["splits"] == scratch_metrics["images"]["splits"] == {"train": 25}


def test_a_shard_without_a_row_in_use_is_left_out_and_comes_back(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: Rows
) -> None:
    run(with_sources(smoke, [url_source(web)], fetch), env)
    whole = hashes()
    run(with_sources(smoke, [url_source(web[8:])], fetch), env)
    assert sorted(tars()) == ["00001", "00002", "00003"]
    run(with_sources(smoke, [url_source(web)], fetch), env)
    assert hashes() == whole and set(server.hits.values()) == {1}


def test_rows_of_one_url_are_one_row_with_the_captions_of_all(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: Rows
) -> None:
    rows = [{**web[0], "words": words} for words in ("one", "two", "one", "three")]
    run(with_sources(smoke, [url_source([*rows, web[1]], key_column=None)], fetch), env)
    assert sorted(texts for _, _, texts in images().values()) == [["image /01"], ["one", "two", "three"]]
    captions = read_captions(OUT / "captions" / "00000.parquet")
    assert [(one.number, one.text) for one in captions if one.text != "image /01"] == [
        (0, "one"), (1, "two"), (2, "three"),
    ]  # fmt: skip
    figures = read_json(Path("metrics/download.json"))["images"]
    assert (figures["rows_in"], figures["rows_out"], figures["joined"]) == (2, 2, 3)


@pytest.mark.parametrize("order", [1, -1])
def test_a_url_of_train_and_test_is_a_row_of_test(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: Rows, order: int
) -> None:
    learned = url_source(web[:4], "learned")
    chosen = url_source([{**one, "id": f"v{one['id']}"} for one in web[1:3]], "chosen", split="validation")
    measured = url_source([{**web[2], "id": "t02"}], "measured", split="test")
    params = with_sources(smoke, [learned, chosen, measured][::order], fetch, max_reject_share=0.9)
    run(params, env)
    assert {key: split for key, (split, _, _) in images().items()} == {
        "00": "train", "v01": "validation", "t02": "test", "03": "train",
    }  # fmt: skip
    metrics = read_json(Path("metrics/download.json"))
    assert metrics["rejected"] == {"held_out_url": 3} and metrics["rows_in"] == 7


def test_a_url_of_two_sources_is_a_row_of_the_first(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: Rows
) -> None:
    more = url_source([{**one, "id": f"m{one['id']}"} for one in web[:2]], "more")
    run(with_sources(smoke, [url_source(web), more], fetch), env)
    assert read_json(Path("metrics/download.json"))["rejected"] == {"duplicate_url": 2}
    assert {entry.source for path in (OUT / "shards").glob("*.parquet") for entry in read_ledger(path)} == {
        "web"
    }


def test_another_name_of_a_source_fetches_nothing(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: Rows
) -> None:
    server.answers["/07"] = status(404)
    run(with_sources(smoke, [url_source(web, key_column=None)], fetch), env)
    before = images()
    run(with_sources(smoke, [url_source(web, "renamed", key_column=None)], fetch), env)
    assert set(server.hits.values()) == {1}
    assert all(key.startswith("renamed_") for key in images()) and len(images()) == 29
    assert sorted(images().values()) == sorted(before.values())
    assert [message for _, message in ledger().values() if message] == ["http_404"]


def test_transport_decides_no_picture_and_has_only_its_own_failures_tried_again(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: Rows
) -> None:
    big = max(len(jpeg(number)) for number in range(30)) + 1
    server.answers["/05"] = body(jpeg(5) + bytes(big))
    server.answers["/06"] = status(404)
    run(with_sources(smoke, [url_source(web)], fetch.model_copy(update={"max_bytes": big})), env)
    assert {key: message for key, (_, message) in ledger().items() if message} == {
        "05": "too_large", "06": "http_404",
    }  # fmt: skip
    hits = server.hits.copy()
    changes = {"retries": 1, "user_agent": "another", "connections": 3, "deadline_seconds": 2.0}
    run(with_sources(smoke, [url_source(web)], fetch.model_copy(update={**changes, "max_bytes": big})), env)
    assert new_hits(server, hits) == set()
    run(with_sources(smoke, [url_source(web)], fetch, shard_rows=5), env)
    assert new_hits(server, hits) == {"/05"}
    assert {key: message for key, (_, message) in ledger().items() if message} == {"06": "http_404"}


def test_another_preparation_fetches_again(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: Rows
) -> None:
    run(with_sources(smoke, [url_source(web)], fetch), env)
    smaller = smoke.download.images.model_copy(update={"size": 32})
    run(with_sources(smoke, [url_source(web)], fetch, images=smaller), env)
    assert set(server.hits.values()) == {2}
    assert {pair.metadata["width"] for pair in pairs()} == {32}
    run(with_sources(smoke, [url_source(web)], fetch), env)
    assert set(server.hits.values()) == {2} and {pair.metadata["width"] for pair in pairs()} == {40}


def test_another_pin_has_the_row_fetched_again(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: Rows
) -> None:
    rows = [{**one, "sha": ""} for one in web]
    run(with_sources(smoke, [url_source(rows, sha256_column="sha")], fetch), env)
    file = Path("pinned")
    file.write_bytes(jpeg(3))
    rows[3]["sha"], rows[4]["sha"] = sha256_of(file), "0" * 64
    hits = server.hits.copy()
    run(with_sources(smoke, [url_source(rows, sha256_column="sha")], fetch), env)
    assert new_hits(server, hits) == {"/04"}
    assert {key: message for key, (_, message) in ledger().items() if message} == {"04": "hash_mismatch"}
    hits = server.hits.copy()
    run(with_sources(smoke, [url_source(rows, sha256_column="sha")], fetch), env)
    assert new_hits(server, hits) == set()


def test_a_file_under_another_name_is_the_same_image(
    workspace: Path, smoke: Params, env: Environment
) -> None:
    folder = Path("inputs/demo/pictures")
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))

    def source(names: list[str]) -> Folder:
        lines = "".join(f"{name},words of {name}\n" for name in names)
        Path("inputs/demo/list.csv").write_text("file,words\n" + lines, "utf-8")
        fields = {**FIELDS, "key_column": None}
        return Folder(**fields, kind="folder", name="local", path="list.csv", captions=CAPTIONS,
                      images="pictures", image_column="file", weight=None)  # fmt: skip

    run(with_sources(smoke, [source(["0.jpg", "1.jpg", "2.jpg", "1.jpg"])]), env)
    before = images()
    assert len(before) == 3  # two lines name one file
    (folder / "1.jpg").rename(folder / "one.jpg")
    run(with_sources(smoke, [source(["0.jpg", "one.jpg", "2.jpg"])]), env)
    assert {picture for _, picture, _ in images().values()} == {picture for _, picture, _ in before.values()}
    assert len(images().keys() & before.keys()) == 2
    assert sorted(tars()) == ["00000", "00001"]


def test_equal_keys_of_two_urls_stop_the_stage(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: Rows
) -> None:
    rows = [*web, {**row(server, "/other"), "id": "07"}]
    with pytest.raises(DataError, match="key 07 occurs twice, in source web and in web"):
        run(with_sources(smoke, [url_source(rows)], fetch), env)
    assert server.hits.total() == 0


def test_the_ledger_keeps_how_each_row_came(
    smoke: Params, env: Environment, server: Server, fetch: Fetch, web: Rows
) -> None:
    server.answers["/03"] = [status(503), status(503), body(jpeg(3))]
    impatient = fetch.model_copy(update={"retries": 0})
    run(with_sources(smoke, [url_source(web)], impatient, retry_rounds=3), env)
    entries = {entry.key: entry for entry in read_ledger(OUT / "shards" / "00000.parquet")}
    assert {key: entry.rounds for key, entry in entries.items() if entry.rounds} == {"03": 2}
    assert entries["00"].origin == server.url("/00")
    assert asdict(entries["00"])["pin"] is None
