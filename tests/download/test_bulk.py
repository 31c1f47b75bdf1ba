"""Another round of asking and a shard set aside, when the shards are in a bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.download.stage import run
from components.errors import DataError
from components.settings.download import Fetch
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.bulk import MARK
from components.storage.manifest import read_manifest
from tests.download.server import Server, body, status
from tests.download.test_stage import OUT, jpeg, pairs, url_source, web, with_sources
from tests.storage.test_bulk import objects, puts, watched

__all__ = ["web"]  # a fixture


@pytest.fixture
def root(s3: str) -> str:
    return f"s3://{s3}/bulk"


@pytest.fixture
def impatient(fetch: Fetch) -> Fetch:
    return fetch.model_copy(update={"retries": 0})


def hashes() -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in read_manifest(OUT)}


def test_only_the_last_round_of_a_shard_goes_to_the_bucket(
    smoke: Params, env: Environment, server: Server, impatient: Fetch, web: list[dict[str, Any]], root: str,
    s3_endpoint: str,
) -> None:  # fmt: skip
    server.answers["/03"] = [status(503), body(jpeg(3))]
    params = with_sources(smoke, [url_source(web)], impatient, retry_rounds=2, data_root=root)
    with watched(s3_endpoint) as exchanges:
        run(params, env)
        assert len(puts(exchanges)) == 4
    assert len(pairs()) == 30
    assert len(set(objects(root)) - {MARK}) == 4
    assert list(Path(".").rglob("*.tar")) == []
    server.hits.clear()
    before = hashes()
    with watched(s3_endpoint) as exchanges:
        run(params, env)
        assert puts(exchanges) == []
    assert dict(server.hits) == {}
    assert hashes() == before


@pytest.mark.integration
def test_what_came_is_taken_from_the_bucket_when_the_rest_is_asked_for_again(
    smoke: Params, env: Environment, server: Server, impatient: Fetch, web: list[dict[str, Any]], root: str
) -> None:
    run(with_sources(smoke, [url_source(web)], impatient), Environment(work_store=Path(".other")))
    expected = hashes()
    server.hits.clear()
    for number in (3, 4, 20):
        server.answers[f"/{number:02d}"] = [status(503), status(503), body(jpeg(number))]
    params = with_sources(
        smoke, [url_source(web)], impatient, max_reject_share=0.05, data_root=root, retry_rounds=1
    )
    with pytest.raises(DataError, match=r"3 of 30 rows rejected \(http_503 3\)"):
        run(params, env)
    assert list(Path(".work").rglob("*.tar")) == []
    run(params, env)
    assert {path for path, count in server.hits.items() if count > 1} == {"/03", "/04", "/20"}
    assert hashes() == expected


@pytest.mark.integration
def test_another_place_for_shards_or_none_fetches_no_image_again(
    smoke: Params, env: Environment, server: Server, impatient: Fetch, web: list[dict[str, Any]], root: str
) -> None:
    run(with_sources(smoke, [url_source(web)], impatient, data_root=root), env)
    before = hashes()
    server.hits.clear()
    for data_root in (f"{root}/moved", None):
        run(with_sources(smoke, [url_source(web)], impatient, data_root=data_root), env)
        assert hashes() == before
    assert len(pairs()) == 30
    assert dict(server.hits) == {}
