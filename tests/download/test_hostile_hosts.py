"""Names that lie, certificates that are none, hosts that keep others waiting."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohappyeyeballs
import aiohttp.connector
import pytest

from components.errors import ConfigurationError, InfrastructureError
from components.settings.download import Fetch
from tests.download.certificates import Authority
from tests.download.server import Server, body, redirect, serving, status
from tests.download.test_fetching import result, results
from tests.http_proxy import proxying

PUBLIC, PRIVATE = "93.184.216.34", "10.0.0.7"
Lookup = dict[str, list[list[str]]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Lookup:
    """What each name resolves to, look-up after look-up, the last answer for good."""
    known: Lookup = {}

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[Any]:
        answers = known[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
        return [
            (family, socket.SOCK_STREAM, 6, "", (address, port, 0, 0)[: 4 if ":" in address else 2])
            for family, address in zip(families, addresses, strict=True)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


@pytest.fixture
def connected(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that connections were made to; all of them end at the test's server."""
    asked: list[str] = []

    async def start(addr_infos: Sequence[Any], **_: object) -> socket.socket:
        asked.extend(info[4][0] for info in addr_infos)
        end = socket.socket()
        end.setblocking(False)
        await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", server.port))
        return end

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", start)
    return asked


@pytest.fixture
def closed(fetch: Fetch) -> Fetch:
    """Nothing private is open."""
    return fetch.model_copy(update={"allowed_private_hosts": [], "deadline_seconds": 20.0})


def test_a_name_that_changes_its_mind_is_connected_to_where_it_was_checked(
    server: Server, closed: Fetch, names: Lookup, connected: list[str]
) -> None:
    server.answers["/a"] = body(b"picture")
    names["rebinds.example"] = [[PUBLIC], [PRIVATE]]
    urls = [f"http://rebinds.example:{server.port}/a"] * 3
    assert results(closed, urls) == [b"picture"] * 3
    assert set(connected) == {PUBLIC}
    assert results(closed, urls) == ["private_address"] * 3  # the next shard asks anew and is told the truth
    assert set(connected) == {PUBLIC}


@pytest.mark.parametrize(
    "addresses", [[PRIVATE], [PUBLIC, PRIVATE], ["127.0.0.1"], ["::1"], ["2606:4700::1", "fe80::1"],
                  ["fd00::1"], ["::ffff:10.0.0.7"], ["169.254.169.254"], ["::7f00:1"], ["64:ff9b:1::a00:7"]]
)  # fmt: skip
def test_a_name_with_any_private_address_is_refused(
    server: Server, closed: Fetch, names: Lookup, connected: list[str], addresses: list[str]
) -> None:
    names["inside.example"] = [addresses]
    names["outside.example"] = [[PUBLIC]]
    server.answers["/there"] = redirect(f"http://inside.example:{server.port}/secret")
    assert result(closed, f"http://inside.example:{server.port}/secret") == "private_address"
    assert connected == []
    assert result(closed, f"http://outside.example:{server.port}/there") == "private_address"
    assert connected == [PUBLIC]
    assert server.hits["/secret"] == 0


def test_names_whose_server_is_silent_keep_no_other_waiting(
    server: Server, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, everyone = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: Any, **named: Any) -> list[Any]:
        if host.startswith("silent"):
            assert answered.wait(60)
            raise socket.gaierror
        return everyone(host, *arguments, **named)

    async def answer(writer: asyncio.StreamWriter) -> None:
        await body(b"picture")(writer)
        answered.set()

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    server.answers["/a"] = answer
    patient = fetch.model_copy(
        update={"deadline_seconds": 20.0, "retries": 0, "allowed_private_hosts": ["localhost"]}
    )
    urls = [f"http://silent{number}.example:{server.port}/" for number in range(fetch.connections - 1)]
    found = results(patient, [*urls, f"http://localhost:{server.port}/a"])
    assert found == ["dns_failed"] * len(urls) + [b"picture"]


def test_a_name_server_that_never_answers_is_no_slow_image(
    server: Server, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: given_up.wait(60) and [])
    try:
        assert result(fetch, f"http://silent.example:{server.port}/") == "dns_failed"
    finally:
        given_up.set()


def test_a_host_with_nearly_all_rows_keeps_no_other_waiting(server: Server, fetch: Fetch) -> None:
    """The slow host answers only when the other one has answered all of its rows."""
    few = [f"/few{number}" for number in range(3)]
    many = [f"/many{number}" for number in range(20)]
    done = threading.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        await body(b"few")(writer)
        if sum(server.hits[path] for path in few) == len(few):
            done.set()

    async def wait(writer: asyncio.StreamWriter) -> None:
        assert await asyncio.to_thread(done.wait, 60)
        await body(b"many")(writer)

    server.answers |= {path: answer for path in few} | {path: wait for path in many}
    both = fetch.model_copy(
        update={"allowed_private_hosts": ["127.0.0.1", "localhost"], "deadline_seconds": 5.0,
                "connections": 4, "connections_per_host": 2}
    )  # fmt: skip
    urls = [server.url(path) for path in many]
    urls += [f"http://localhost:{server.port}{path}" for path in few]
    assert results(both, urls) == [b"many"] * len(many) + [b"few"] * len(few)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """One that the client trusts."""
    made = Authority(tmp_path)
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", made.trust())
    return made


def tls_result(fetch: Fetch, shown: ssl.SSLContext, answer: Any) -> tuple[bytes | str, int]:
    """Return what becomes of a url of a server with this certificate, and how often it was asked."""
    with serving(Server(), shown) as server:
        server.answers["/a"] = answer
        opened = fetch.model_copy(update={"allowed_ports": [*fetch.allowed_ports, server.port],
                                          "deadline_seconds": 20.0})  # fmt: skip
        return result(opened, server.url("/a")), server.hits["/a"]


def test_a_certificate_must_be_one(fetch: Fetch, authority: Authority) -> None:
    good = body(b"picture")
    assert tls_result(fetch, authority.server(), good) == (b"picture", 1)
    assert tls_result(fetch, authority.server(self_signed=True), good) == ("tls", 0)
    assert tls_result(fetch, authority.server("127.0.0.2"), good) == ("tls", 0)
    assert tls_result(fetch, authority.server(days=-1), good) == ("tls", 0)


def test_a_redirect_never_leads_from_https_to_http(
    server: Server, fetch: Fetch, authority: Authority
) -> None:
    server.answers["/b"] = body(b"picture")
    there = redirect(server.url("/b"))
    assert tls_result(fetch, authority.server(), there) == ("https_downgrade", 1)
    assert server.hits["/b"] == 0
    with serving(Server(), authority.server()) as safe:
        safe.answers["/c"] = body(b"picture")
        server.answers["/up"] = redirect(safe.url("/c"))
        both = fetch.model_copy(update={"allowed_ports": [server.port, safe.port], "deadline_seconds": 20.0})
        assert result(both, server.url("/up")) == b"picture"


@pytest.fixture
def beyond(closed: Fetch) -> Fetch:
    """Names that only a proxy can look up, at the server's port."""
    return closed.model_copy(update={"retries": 1, "allowed_ports": [80, 443, *closed.allowed_ports]})


def test_a_proxy_is_asked_byte_for_byte_and_no_name_looked_up(
    server: Server, beyond: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/a%28?b=%2F"] = body(b"picture")
    server.answers["/moved"] = redirect("http://b.invalid/a%28?b=%2F")
    server.answers["/inside"] = redirect("http://169.254.169.254/latest")
    with proxying(server.port, "Basic dXNlcjpwQHNz") as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:p%40ss@localhost:{proxy.port}")
        assert result(beyond, "http://a.invalid/moved") == b"picture"
        assert proxy.asked == [
            "GET http://a.invalid/moved HTTP/1.1",
            "GET http://b.invalid/a%28?b=%2F HTTP/1.1",
        ]
        assert result(beyond, "http://a.invalid/inside") == "private_address"
        for host in ("127.0.0.1", "localhost", "10.0.0.1", "0x7f.1", "[::1]"):
            assert result(beyond, f"http://{host}/secret") == "private_address"
        assert len(proxy.asked) == 3
        monkeypatch.setenv("NO_PROXY", "b.invalid")
        assert result(beyond, "http://a.invalid/moved") == "dns_failed"  # of b, which is asked directly
        # nor is it a way to the proxy's own host
        assert result(beyond, f"http://localhost:{server.port}/a%28?b=%2F") == "private_address"


def test_a_proxy_gives_a_tunnel_to_https(
    fetch: Fetch, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Server(), authority.server("93.184.216.34")) as server, proxying(server.port) as proxy:
        server.answers["/a"] = body(b"picture")
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{proxy.port}")
        patient = fetch.model_copy(update={"allowed_ports": [443], "deadline_seconds": 20.0})
        assert result(patient, "https://93.184.216.34/a") == b"picture"
        assert proxy.asked == ["CONNECT 93.184.216.34:443 HTTP/1.1"]
        assert result(patient, "https://93.184.216.35/a") == "tls"  # another one's certificate


def test_a_proxy_that_fails_is_to_blame_and_no_row(
    server: Server, beyond: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = ["http://a.invalid/", "https://a.invalid/"]
    with proxying(server.port, "Basic none") as proxy:
        for url in urls:
            monkeypatch.setenv("ALL_PROXY", f"http://user:hunter2@127.0.0.1:{proxy.port}")
            with pytest.raises(ConfigurationError) as login:
                result(beyond, url)
            assert str(login.value) == (
                f"the proxy 127.0.0.1:{proxy.port} answers 407; expected a login that it accepts: set "
                f"ALL_PROXY to http://USER:PASSWORD@127.0.0.1:{proxy.port}"
            )
    for address in (f"127.0.0.1:{proxy.port}", "proxy.invalid:3128"):
        monkeypatch.setenv("ALL_PROXY", f"http://user:hunter2@{address}")
        for url in urls:
            with pytest.raises(InfrastructureError) as dead:
                result(beyond, url)
            assert str(dead.value) == (
                f"the proxy {address} (ALL_PROXY) does not answer; expected it to accept connections: "
                "start it, or fix or unset the variable, and rerun"
            )


def test_a_proxy_that_takes_no_connection_in_time_is_to_blame(
    beyond: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> socket.socket:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", never)
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    hurried = beyond.model_copy(update={"deadline_seconds": 0.1})
    with pytest.raises(InfrastructureError, match="the proxy 127.0.0.1:1 .* does not answer"):
        result(hurried, "http://a.invalid/")


def test_a_server_says_when_to_come_back(server: Server, fetch: Fetch, waits: list[float]) -> None:
    patient = fetch.model_copy(update={"retries": 1, "deadline_seconds": 100.0, "backoff_seconds": 0.5})
    date = "Date: Fri, 31 Dec 1999 23:59:50 GMT"  # by the server's clock, however wrong it is
    cases = {
        ("Retry-After: 7",): 7.0,
        ("Retry-After: Fri, 31 Dec 1999 23:59:59 GMT", date): 9.0,
        ("Retry-After: Fri, 31 Dec 1999 23:59:49 GMT", date): 0.5,  # our own backoff
        ("Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", date): 50.0,  # half of what the deadline leaves
        ("Retry-After: 1000000000",): 50.0,
        ("Retry-After: Fri, 31 Dec 1999 23:59:59 GMT",): 0.5,
        ("Retry-After: soon", date): 0.5,
        ("Retry-After: -7", date): 0.5,
        (): 0.5,
    }
    for headers, seconds in cases.items():
        waits.clear()
        server.answers["/busy"] = [status(429, *headers), body(b"picture")]
        assert result(patient, server.url("/busy")) == b"picture"
        assert waits == [pytest.approx(seconds, rel=0.1)], headers
