from __future__ import annotations

import asyncio
import os
import signal
from secrets import token_hex
from typing import Any

import pytest
from pydantic import SecretStr

from components.errors import ConfigurationError, InfrastructureError, Stopped
from components.recaption.captioners.endpoint import (
    MAX_ANSWER_BYTES,
    Chat,
    EndpointWriter,
    completions_url,
    server_of,
)
from components.recaption.captioners.prompted import Order, Reply
from components.running.signals import STOP_SIGNALS, raise_on_stop_signals
from components.settings.recaption import EndpointCaptioner
from tests.http_proxy import proxying
from tests.recaption.chat_server import (
    Behaviour,
    ChatServer,
    caption_of,
    never,
    raw,
    reset,
    says,
    status,
    together,
    well,
)
from tests.recaption.prompted import REQUESTS

KEY = SecretStr(token_hex())


def section(**requests: Any) -> EndpointCaptioner:
    return EndpointCaptioner.model_validate(
        {
            "kind": "endpoint",
            "name": "far",
            "model": "some/model",
            "revision": "1",
            "prompts": {"short": "Describe it."},
            "max_new_tokens": {"short": 32},
            "temperature": 0.0,
            "language": "en",
            "splits": ["train"],
            "requests": {**REQUESTS, **requests},
        }
    )


def orders(count: int) -> list[Order]:
    return [Order(f"jpeg {number}".encode(), "Describe it.", 32, number) for number in range(count)]


def replies(server: ChatServer, count: int, key: SecretStr = KEY, **requests: Any) -> list[Reply]:
    found = dict(EndpointWriter(section(**requests), server.url, key).replies(orders(count)))
    return [found[number] for number in range(count)]


def one(server: ChatServer, *behaviours: Behaviour, **requests: Any) -> Reply:
    server.behaviours[b"jpeg 0"] = list(behaviours)
    (reply,) = replies(server, 1, **requests)
    return reply


def test_each_image_gets_its_own_caption(server: ChatServer) -> None:
    found = replies(server, 9)
    by_seed = {body["seed"]: body for body in server.asked}
    assert [reply.text for reply in found] == [caption_of(by_seed[number]) for number in range(9)]
    assert not any(reply.reason for reply in found)
    for body in server.asked:
        assert {name: body[name] for name in ("model", "max_tokens", "temperature")} == {
            "model": "some/model",
            "max_tokens": 32,
            "temperature": 0.0,
        }
        assert body["messages"][0]["content"][1] == {"type": "text", "text": "Describe it."}


def test_so_many_are_asked_at_once_and_no_more(server: ChatServer) -> None:
    server.usual = together(4)
    assert len(replies(server, 12)) == 12
    assert server.most_running == 4


def test_the_key_is_sent_and_no_empty_one(server: ChatServer) -> None:
    replies(server, 1)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY.get_secret_value()}"
    replies(server, 1, key=SecretStr(""))
    assert "Authorization" not in server.headers[1]


@pytest.mark.parametrize(
    "trouble", [status(429), status(429, Retry_After="1000000"), status(500), status(503), reset]
)
def test_trouble_that_passes_is_ridden_out(server: ChatServer, trouble: Behaviour) -> None:
    assert one(server, trouble, trouble, well).reason is None
    assert server.hits[b"jpeg 0"] == 3


@pytest.mark.parametrize(
    ("behaviour", "reason", "hits"),
    [
        (status(500), "http_500", 3),
        (status(429, Retry_After="Wed, 21 Oct 2099 07:28:00 GMT"), "http_429", 3),
        (reset, "connection_failed", 3),
        (status(400), "http_400", 1),
        (status(413), "http_413", 1),
        (raw(b"{"), "bad_answer", 1),
        (raw(b"\xff\xfe"), "bad_answer", 1),
        (raw(b"[]"), "bad_answer", 1),
        (raw(b'{"choices": []}'), "bad_answer", 1),
        (raw(b'{"choices": [{}]}'), "bad_answer", 1),
        (raw(b'{"choices": [{"message": null}]}'), "bad_answer", 1),
        (raw(b"[" * 100_000), "bad_answer", 1),
        (raw(b" " * (MAX_ANSWER_BYTES + 1)), "answer_too_large", 1),
        (says(None), "empty", 1),
        (says(["a", "list"]), "empty", 1),
        (says(None, refusal="I will not."), "refusal", 1),
        (says("A dog", "content_filter"), "refusal", 1),
        (says("A dog runs over the", "length"), "truncated", 1),
        (says(f"You said {KEY.get_secret_value()}."), "secret", 1),
    ],
)
def test_what_is_no_caption_has_a_reason(
    server: ChatServer, behaviour: Behaviour, reason: str, hits: int
) -> None:
    reply = one(server, behaviour)
    assert reply.reason == reason
    assert KEY.get_secret_value() not in reply.text
    assert server.hits[b"jpeg 0"] == hits


def test_a_caption_that_was_cut_is_kept_with_its_reason(server: ChatServer) -> None:
    assert one(server, says("A dog runs over the", "length")) == Reply("A dog runs over the", "truncated")


def test_the_deadline_is_for_all_attempts(server: ChatServer) -> None:
    assert one(server, never, deadline_seconds=0.2).reason == "timeout"
    assert one(server, status(429), well, backoff_seconds=60.0, deadline_seconds=0.2).reason == "timeout"


def test_one_bad_image_costs_no_other_its_caption(server: ChatServer) -> None:
    server.behaviours[b"jpeg 3"] = [status(500)]
    server.behaviours[b"jpeg 4"] = [raw(b"nonsense")]
    found = replies(server, 8)
    assert [reply.reason for reply in found] == [None] * 3 + ["http_500", "bad_answer"] + [None] * 3


@pytest.mark.parametrize("code", [401, 403])
def test_a_refused_key_stops_at_once(server: ChatServer, code: int) -> None:
    server.usual = status(code)
    with pytest.raises(
        ConfigurationError, match=f"answers {code}; .*set LLM2CLIP_CAPTION_ENDPOINT_KEY"
    ) as fault:
        replies(server, 50)
    assert KEY.get_secret_value() not in str(fault.value)
    assert len(server.asked) <= REQUESTS["connections"]


@pytest.mark.parametrize("code", [302, 307, 404, 405])
def test_another_place_than_expected_stops_at_once(server: ChatServer, code: int) -> None:
    server.usual = status(code, Location="http://127.0.0.1:1/")
    with pytest.raises(ConfigurationError, match=f"answers {code} to /v1/chat/completions; .*some/model"):
        replies(server, 50)


@pytest.mark.parametrize(
    ("behaviour", "kind", "reason"),
    [
        (status(500), InfrastructureError, "http_500"),
        (reset, InfrastructureError, "connection_failed"),
        (status(422), ConfigurationError, "http_422"),
        (raw(b"<html>"), ConfigurationError, "bad_answer"),
    ],
)
def test_a_server_that_gives_nothing_stops_the_work(
    server: ChatServer, behaviour: Behaviour, kind: type[Exception], reason: str
) -> None:
    server.usual = behaviour
    with pytest.raises(kind, match=f"far: 3 requests in a row gave no caption, the last by {reason}"):
        replies(server, 50)
    assert len(server.hits) < 50


def test_nobody_listens() -> None:
    writer = EndpointWriter(section(), "http://127.0.0.1:9/v1", KEY)
    with pytest.raises(InfrastructureError, match="connection_failed"):
        list(writer.replies(orders(5)))


def test_a_stop_while_answers_are_awaited_is_not_lost(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Chat.ask

    async def ask_and_stop(self: Chat, order: Order) -> Reply:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        return await ask(self, order)

    monkeypatch.setattr(Chat, "ask", ask_and_stop)
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    raise_on_stop_signals()
    try:
        with pytest.raises(Stopped):
            replies(server, 50)
    finally:
        for number, handler in zip(STOP_SIGNALS, before, strict=True):
            signal.signal(number, handler)
    assert len(server.asked) < 50


def test_a_redirect_carries_neither_key_nor_picture(server: ChatServer) -> None:
    for code in (301, 302, 303, 307, 308):
        for target in ("http://captions.invalid/v1", server.url.replace("127.0.0.1", "127.0.0.2")):
            with pytest.raises(ConfigurationError, match=f"answers {code} to /v1/chat/completions"):
                one(server, status(code, Location=target))
    assert len(server.asked) == 10


def test_a_proxy_is_obeyed_and_to_blame_when_it_fails(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(**requests: Any) -> Reply:
        writer = EndpointWriter(section(**requests), "http://captions.invalid:80/v1", KEY)
        return dict(writer.replies(orders(1)))[0]

    with proxying(server.port, "Basic dXNlcjpodW50ZXIy") as proxy:
        address = f"127.0.0.1:{proxy.port}"
        monkeypatch.setenv("HTTP_PROXY", f"http://user:hunter2@{address}")
        assert ask().reason is None
        assert proxy.asked == ["POST http://captions.invalid/v1/chat/completions HTTP/1.1"]
        assert replies(server, 1)[0].reason is None  # on loopback, directly
        assert len(proxy.asked) == 1
        monkeypatch.setenv("HTTP_PROXY", f"http://{address}")
        with pytest.raises(ConfigurationError, match=f"^the proxy {address} answers 407; expected a login"):
            ask()
    with pytest.raises(InfrastructureError, match=rf"^the proxy {address} \(HTTP_PROXY\) does not answer; "):
        ask()


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "host/v1",
        "ftp://host/v1",
        "file:///etc/passwd",
        "http://",
        "http://[::1",
        "https://xn--a/v1",
        "https://user[1]@/v1",
        "https://host:99999/v1",
        "https://host:x/v1",
    ],
)
def test_an_address_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="LLM2CLIP_CAPTION_ENDPOINT is no http"):
        completions_url(server_of(section(), endpoint, KEY))


@pytest.mark.parametrize(
    "endpoint", ["http://user:hunter2@host/v1", "http://host/v1?key=hunter2", "http://h/#hunter2"]
)
def test_a_secret_in_the_address_is_refused_and_not_repeated(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="put the key in LLM2CLIP_CAPTION_ENDPOINT_KEY") as fault:
        completions_url(server_of(section(), endpoint, KEY))
    assert "hunter2" not in str(fault.value)


def test_the_address_ends_in_chat_completions() -> None:
    for base in ("https://host/v1", "https://host/v1/", "https://host/a%28b%2Fc%2e/v1"):
        url = f"{base.removesuffix('/')}/chat/completions"
        assert str(completions_url(server_of(section(), base, KEY))) == url
