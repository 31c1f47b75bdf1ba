"""An embeddings endpoint: each text its own vector, whatever the order; no wrong answer is taken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
import torch
from pydantic import SecretStr

from components.embed_captions.server_encoder import ServerEncoder
from components.embed_captions.stage import run
from components.errors import ConfigurationError, InfrastructureError
from components.settings.embed_captions import EndpointEncoder
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import read_json
from components.storage.embeddings import read_embeddings
from components.storage.layout import Layout
from components.storage.side_tables import read_captions
from tests.embed_captions.embedding_server import (
    WIDTH,
    Behaviour,
    EmbeddingServer,
    changed,
    never,
    raw,
    reset,
    serving,
    status,
    vector_of,
    well,
)
from tests.embed_captions.test_stage import tuned  # noqa: F401 - a fixture
from tests.embedded import rows_of

KEY = SecretStr(token_hex())
REQUESTS = {
    "deadline_seconds": 20.0,
    "retries": 2,
    "backoff_seconds": 0.01,
    "max_retry_after_seconds": 0.01,
    "connections": 3,
}
FAR: dict[str, Any] = {
    "kind": "endpoint",
    "name": "far",
    "model": "some/embedder",
    "revision": "1",
    "dimensions": WIDTH,
    "asks_dimensions": False,
    "batch_size": 4,
    "max_characters": 1000,
    "requests": REQUESTS,
}
TEXTS = [f"text {number}" for number in range(10)]


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with serving() as one:
        yield one


def encoder(server: EmbeddingServer, layout: Layout, **changes: Any) -> ServerEncoder:
    section = EndpointEncoder.model_validate({**FAR, **changes})
    return ServerEncoder(section, layout, server.url, KEY)


def with_far(smoke: Params, **changes: Any) -> Params:
    tree = smoke.model_dump()
    tree["embed_captions"] |= {"llms": ["tuned"], "others": [{**FAR, **changes}]}
    tree["train_clip"]["arms"] = [arm for arm in tree["train_clip"]["arms"] if arm["text"] != "base"]
    return Params.model_validate(tree)


def test_each_text_gets_its_own_vector(server: EmbeddingServer, layout: Layout) -> None:
    counts: list[int] = []
    encoded = encoder(server, layout).encode(TEXTS, counts.append)
    assert encoded.vectors.tolist() == [vector_of(text) for text in TEXTS]
    assert sorted(counts) == [2, 4, 4]
    assert sorted(text for body in server.asked for text in body["input"]) == sorted(TEXTS)
    assert {body["model"] for body in server.asked} == {"some/embedder"}
    assert "dimensions" not in server.asked[0]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY.get_secret_value()}"
    assert KEY.get_secret_value() not in str(encoder(server, layout).about)
    encoder(server, layout, asks_dimensions=True).encode_alone(["a"])
    assert server.asked[-1]["dimensions"] == WIDTH


def test_a_megabyte_is_cut(server: EmbeddingServer, layout: Layout) -> None:
    texts = ["a", "word " * 200_000, "x" * 9]
    encoded = encoder(server, layout, max_characters=9).encode(texts, lambda _: None)
    assert [text for body in server.asked for text in body["input"]] == ["a", "word word", "x" * 9]
    assert encoded.is_cut == [False, True, False]
    alone = encoder(server, layout, max_characters=9).encode_alone(texts)
    assert torch.equal(alone, encoded.vectors)


@pytest.mark.parametrize("failure", [status(500), status(429, Retry_After="999999"), reset])
def test_what_passes_is_asked_again(server: EmbeddingServer, layout: Layout, failure: Behaviour) -> None:
    server.behaviours = [failure, failure, well]
    assert encoder(server, layout).encode_alone(["a"]).tolist() == [vector_of("a")]


@pytest.mark.parametrize("failure", [status(503), reset, never])
def test_a_server_that_is_down_ends_with_4(
    server: EmbeddingServer, layout: Layout, failure: Behaviour
) -> None:
    server.behaviours = [failure]
    requests = {**REQUESTS, "deadline_seconds": 0.3}
    with pytest.raises(InfrastructureError, match="gave no embeddings") as fault:
        encoder(server, layout, requests=requests).encode_alone(["a"])
    assert fault.value.exit_code == 4


Items = list[dict[str, Any]]
WRONG: dict[str, Callable[[Items], Any]] = {
    "one missing": lambda items: items[:-1],
    "none": lambda _: [],
    "one twice": lambda items: [*items[:-1], items[0]],
    "one more": lambda items: [*items, items[0]],
    "shifted": lambda items: [{**item, "index": item["index"] + 1} for item in items],
    "another width": lambda items: [{**item, "embedding": item["embedding"][:-1]} for item in items],
    "one of another width": lambda items: [*items[:-1], {**items[-1], "embedding": [1.0]}],
    "a text": lambda items: [{**item, "embedding": "AAAA"} for item in items],
    "a text within": lambda items: [{**item, "embedding": ["1"] * WIDTH} for item in items],
    "null": lambda items: [{**item, "embedding": None} for item in items],
    "no index": lambda items: [{"embedding": item["embedding"]} for item in items],
    "no list": lambda _: "data",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_is_refused(server: EmbeddingServer, layout: Layout, wrong: str) -> None:
    server.behaviours = [changed(WRONG[wrong])]
    with pytest.raises(ConfigurationError, match=r"gave no embeddings .* texts, the longest of \d+"):
        encoder(server, layout).encode(TEXTS, lambda _: None)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(server: EmbeddingServer, layout: Layout, value: str) -> None:
    numbers = f"[{', '.join([value] * WIDTH)}]"
    server.behaviours = [raw(f'{{"data": [{{"index": 0, "embedding": {numbers}}}]}}'.encode())]
    with pytest.raises(ConfigurationError, match="NaN or infinite"):
        encoder(server, layout).encode_alone(["a"])


@pytest.mark.parametrize(
    "data", [b"", b"no json", b"[" * 100_000, b"null", json.dumps({}).encode(), b"x" * 10**6]
)
def test_what_is_no_answer_is_refused(server: EmbeddingServer, layout: Layout, data: bytes) -> None:
    server.behaviours = [raw(data)]
    with pytest.raises(ConfigurationError, match="bad_answer|too_large"):
        encoder(server, layout).encode_alone(["a"])


@pytest.mark.parametrize(
    ("code", "hint"), [(401, "_KEY"), (404, "knows model some/embedder"), (302, "embeddings there")]
)
def test_a_refusal_says_what_to_set(server: EmbeddingServer, layout: Layout, code: int, hint: str) -> None:
    server.behaviours = [status(code)]
    with pytest.raises(ConfigurationError, match=hint):
        encoder(server, layout).encode_alone(["a"])


def test_an_address_that_is_none_is_refused(server: EmbeddingServer, layout: Layout) -> None:
    with pytest.raises(ConfigurationError, match="LLM2CLIP_EMBEDDING_ENDPOINT is no http"):
        ServerEncoder(EndpointEncoder.model_validate(FAR), layout, "", KEY)


def test_the_stage_fills_a_cache_by_it(
    server: EmbeddingServer,
    tuned: Layout,  # noqa: F811
    smoke: Params,
) -> None:
    env = Environment(embedding_endpoint=server.url, embedding_endpoint_key=KEY)
    run(with_far(smoke), env)
    captions = read_captions(tuned.artifact("recaption") / "captions" / "00000.parquet")
    dense = [caption for caption in captions if caption.column == "dense"]
    found = read_embeddings(tuned.artifact("embed_captions") / "far", ["dense"], Path(".work"))
    assert found.about["revision"] == "1"
    vectors = found.vectors.whole()
    for caption in dense:
        row = rows_of(found, "dense", [caption.key])[0][caption.number]
        assert vectors[row].tolist() == torch.tensor(vector_of(caption.text)).half().tolist()
    figures = read_json(tuned.metrics("embed_captions"))["llms"]["far"]
    assert (figures["dimension"], figures["tokens"], figures["recheck_min_cosine"]) == (WIDTH, None, 1.0)
    asked = len(server.asked)
    run(with_far(smoke), env)
    assert len(server.asked) == asked
    run(with_far(smoke, revision="2"), env)
    assert len(server.asked) > asked
