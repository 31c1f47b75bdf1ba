"""Which requests go through the proxy that the environment names, and what is said when it fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from yarl import URL

from components.cli.check import check
from components.errors import ConfigurationError, InfrastructureError
from components.http.proxies import Proxies
from components.settings.environment import Environment
from components.settings.params import Params
from tests.cli.test_check import project  # noqa: F401 - a fixture
from tests.download.test_stage import url_source
from tests.http_proxy import proxying


def asked_through(url: str, direct: tuple[str, ...] = ()) -> str | None:
    proxy = Proxies(direct).of(URL(url))
    return f"{proxy.variable} {proxy.address}" if proxy else None


@pytest.mark.parametrize("change", [str.upper, str.lower])
def test_each_scheme_has_its_proxy_in_either_spelling(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str]
) -> None:
    assert asked_through("http://a.example/") is None
    monkeypatch.setenv(change("ALL_PROXY"), "all.example:3128")
    monkeypatch.setenv(change("HTTP_PROXY"), "http://user:hunter2@plain.example")
    assert asked_through("http://a.example/") == "HTTP_PROXY plain.example:80"
    assert asked_through("https://a.example/") == "ALL_PROXY all.example:3128"
    monkeypatch.setenv(change("HTTPS_PROXY"), "https://[2606:4700::1]:8443/")
    assert asked_through("https://a.example/") == "HTTPS_PROXY [2606:4700::1]:8443"


@pytest.mark.parametrize(
    ("exempt", "hosts"),
    [
        ("*", ["a.example", "8.8.8.8"]),
        ("b.example, .example", ["a.example", "example"]),
        ("*.EXAMPLE", ["a.example"]),
        ("a.example:8080", ["a.example:8080"]),
        ("10.0.0.0/8,2606:4700::/32", ["10.1.2.3", "[2606:4700::1]"]),
        ("[2606:4700::1]", ["[2606:4700::1]:443"]),
        ("", ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9:80", "[::1]"]),  # never through a proxy
    ],
)
def test_some_hosts_are_asked_directly(
    monkeypatch: pytest.MonkeyPatch, exempt: str, hosts: list[str]
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", exempt)
    for host in hosts:
        assert asked_through(f"https://{host}/") is None
    for host in [] if exempt == "*" else ["bexample", "a.example.com", "11.0.0.1"]:
        assert asked_through(f"https://{host}/") == "HTTPS_PROXY proxy.example:3128"
    assert asked_through("https://inside.other/", direct=("inside.other",)) is None


@pytest.mark.parametrize(
    "value", ["socks5://user:hunter2@proxy:1080", "http://", "http://[::1", "http://u:hunter2@:1"]
)
def test_a_variable_that_names_no_proxy_is_a_fault_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    message = r"^HTTPS_PROXY names no http\(s\) proxy; expected http://HOST:PORT: fix or unset it$"
    with pytest.raises(ConfigurationError, match=message):
        Proxies()


def test_check_says_which_proxy_there_is_and_that_it_does_not_answer(
    smoke: Params,
    env: Environment,
    project: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:hunter2@127.0.0.1:1")
    assert "proxies: none needed" in check(smoke, env)
    web = url_source([{"id": "1", "link": "http://a.example/", "words": "words"}])
    sources = [*smoke.download.sources, web]
    smoke = smoke.model_copy(update={"download": smoke.download.model_copy(update={"sources": sources})})
    with proxying(1) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:hunter2@127.0.0.1:{proxy.port}")
        assert f"proxies: 127.0.0.1:{proxy.port} (HTTP_PROXY)" in check(smoke, env)
    monkeypatch.setenv("HTTP_PROXY", "http://user:hunter2@127.0.0.1:1")
    expected = (
        r"^the proxy 127.0.0.1:1 \(HTTP_PROXY\) does not answer; expected it to accept connections: start"
    )
    with pytest.raises(InfrastructureError, match=expected):
        check(smoke, env)
