from __future__ import annotations

import asyncio
import gzip
import resource
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.download.addresses import checked_url, is_public
from components.download.fetching import Fetcher
from components.download.refusal import Refused
from components.download.urls import plain_url, resolved
from components.settings.download import Fetch
from components.sources.row import without_credentials
from tests.download.server import Answer, Server, body, drip, endless, late, raw, redirect, reset, status

OK = b"HTTP/1.1 200 OK\r\n"


def results(fetch: Fetch, urls: Sequence[str]) -> list[bytes | str]:
    """Return for each url the body or the reason why there is none."""

    async def get(fetcher: Fetcher, url: str) -> bytes | str:
        try:
            async with fetcher.fetched(url) as answer:
                return answer.data
        except Refused as refused:
            return refused.reason

    async def all_of_them() -> list[bytes | str]:
        async with Fetcher(fetch) as fetcher:
            return await asyncio.gather(*(get(fetcher, url) for url in urls))

    return asyncio.run(all_of_them())


def result(fetch: Fetch, url: str) -> bytes | str:
    return results(fetch, [url])[0]


def test_a_body_comes_back_and_nothing_compressed_is_asked_for(server: Server, fetch: Fetch) -> None:
    server.answers["/a.jpg"] = body(b"picture")
    assert result(fetch, server.url("/a.jpg")) == b"picture"
    headers = [line.lower() for line in server.headers["/a.jpg"]]
    assert "accept-encoding: identity" in headers
    assert f"user-agent: {fetch.user_agent}" in headers


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "scheme_not_allowed"),
        ("ftp://example.com/a", "scheme_not_allowed"),
        ("data:image/png;base64,AAAA", "scheme_not_allowed"),
        ("gopher://example.com/", "scheme_not_allowed"),
        ("pipe:ls", "scheme_not_allowed"),
        ("no scheme", "bad_url"),
        ("example.com/a.jpg", "bad_url"),
        ("http:///a.jpg", "bad_url"),
        ("http://example.com/a\r\nHost: b", "bad_url"),
        ("http://example.com/" + "a" * 10_000, "bad_url"),
        ("http://example.com:99999/", "bad_url"),
        ("http://example.com:" + "9" * 5000 + "/", "bad_url"),
        ("http://example.com:\u0663/", "bad_url"),
        ("http://example.com:-1/", "bad_url"),
        ("http://example.com:0/", "port_not_allowed"),
        ("http://example.com:8o/", "bad_url"),
        ("http://xn--a.com/cat.jpg", "bad_url"),
        ("http://a.xn--/", "bad_url"),
        ("http://xn--a-.com/", "bad_url"),  # nothing but what needs no encoding
        ("http://xn--\u00e4.com/", "bad_url"),
        ("http://user[1]@/x.jpg", "bad_url"),
        ("http://user[1]@example.com/x.jpg", "credentials_in_url"),
        ("http://[", "bad_url"),
        ("http://]/", "bad_url"),
        ("http://[]/", "bad_url"),
        ("http://[::1/", "bad_url"),
        ("http://[::1]x/", "bad_url"),
        ("http://x[::1]/", "bad_url"),
        ("http://[::1]:x/", "bad_url"),
        ("http://[[::1]]/", "bad_url"),
        ("http://[v1.x]/", "bad_url"),
        ("http://[fe80::1%25eth0]/", "bad_url"),
        ("http://[1.2.3.4]/", "bad_url"),
        ("http://a..example/", "bad_url"),
        ("http://.example/", "bad_url"),
        ("http://example../", "bad_url"),
        ("http://./", "bad_url"),
        ("http://\u3002/", "bad_url"),
        ("http://" + "a" * 64 + ".example/", "bad_url"),
        ("http://" + "\u00e4" * 64 + ".example/", "bad_url"),
        ("http://" + "a." * 127 + "example/", "bad_url"),
        ("http://ex%61mple.com/", "bad_url"),
        ("http://example.com%2f/", "bad_url"),
        ("http://example.com%/", "bad_url"),
        ("http://exa mple.com/", "bad_url"),
        ("http://exa\u00a0mple.com/", "bad_url"),
        ("http://exa\u200bmple.com/", "bad_url"),
        ("http://\u2100.example/", "bad_url"),  # a/c, once normalised
        ("http://exa*mple.com/", "bad_url"),
        ("http://\ud800.example/", "bad_url"),
        ("http://example.com/\udc80", "bad_url"),
        ("http://\U0010ffff.example/", "bad_url"),
        ("http://@/", "bad_url"),
        ("http://:80/", "bad_url"),
        ("http://?", "bad_url"),
        ("http:example.com", "bad_url"),
        ("", "bad_url"),
        ("//example.com/", "bad_url"),
        ("http://1.2.3.4.5/", "bad_url"),
        ("http://99999999999/", "bad_url"),
        ("http://example.123/", "bad_url"),
        ("http://127.0.0.1./", "private_address"),
        ("http://0x7f.1/", "private_address"),
        ("http://1.0x/", "bad_url"),
        ("http://a.localhost/", "private_address"),
        ("http://localhost./", "private_address"),
        ("http://user:pass@example.com/", "credentials_in_url"),
        ("http://example.com:22/", "port_not_allowed"),
        ("http://169.254.169.254/latest/meta-data", "private_address"),
        ("http://10.0.0.1/", "private_address"),
        ("http://127.0.0.1/", "private_address"),
        ("http://127.1/", "private_address"),
        ("http://2130706433/", "private_address"),
        ("http://0x7f000001/", "private_address"),
        ("http://0/", "private_address"),
        ("http://[::1]/", "private_address"),
        ("http://[::ffff:127.0.0.1]/", "private_address"),
        ("http://[fe80::1]/", "private_address"),
        ("http://[::127.0.0.1]/", "private_address"),
        ("http://\uff11\uff12\uff17.0.0.1/", "private_address"),  # full width digits
        ("http://0177.0.0.1/", "private_address"),
        ("http://localhost/", "private_address"),
    ],
)
def test_what_must_not_be_asked_for_is_not(fetch: Fetch, url: str, reason: str) -> None:
    closed = fetch.model_copy(update={"allowed_private_hosts": [], "allowed_ports": [80]})
    assert result(closed, url) == reason


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f000001", "localhost", "[::ffff:127.0.0.1]", "0"]
)
def test_no_spelling_of_loopback_reaches_it(server: Server, fetch: Fetch, host: str) -> None:
    server.answers["/secret"] = body(b"secret")
    closed = fetch.model_copy(update={"allowed_private_hosts": []})
    assert result(closed, f"http://{host}:{server.port}/secret") == "private_address"
    assert server.hits.total() == 0


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://169.254.169.254/latest", "port_not_allowed"),
        ("http://169.254.169.254:{port}/latest", "private_address"),
        ("http://localhost:{port}/secret", "private_address"),
        ("file:///etc/passwd", "scheme_not_allowed"),
        ("http://user:pass@127.0.0.1:{port}/secret", "credentials_in_url"),
        ("//[::1]:{port}/secret", "private_address"),
        ("", "bad_response"),
        ("http://xn--a.example/x", "bad_url"),
        ("http://user[1]@/x", "bad_url"),
        ("//[/x", "bad_url"),
        ("http://a..b/x", "bad_url"),
        ("http:/\\169.254.169.254:{port}/latest", "private_address"),
        ("\\\\169.254.169.254:{port}\\latest", "private_address"),
        ("http://b\xfccher.example:{port}/", "bad_url"),  # latin-1 in a host
    ],
)
def test_every_hop_of_a_redirect_is_checked(server: Server, fetch: Fetch, target: str, reason: str) -> None:
    server.answers["/start"] = redirect("/next")
    server.answers["/next"] = redirect(target.format(port=server.port), 307)
    assert result(fetch, server.url("/start")) == reason
    assert server.hits["/next"] == 1
    assert server.hits["/secret"] == 0


VALID = [
    "/?response-content-type=image%2Fjpeg&sig=a%28b%29%2f%2B+c",
    "/http%3A%2F%2Fa.example%2Fb%2ejpg",
    "/a//b/;c,d=e:@!$&'()*+~x",
    "/%7Euser/%c3%A9%E9%00%20",
    "/a?",
    "/a?b?c/d=&&;e",
    "/a%2F..%2Fb/...",
    "/%",
]
ENCODED = {
    "/caf\u00e9 \u202f\U0001f600.jpg": "/caf%C3%A9%20%E2%80%AF%F0%9F%98%80.jpg",
    '/100%|"<>[]^`{}%4': "/100%25%7C%22%3C%3E%5B%5D%5E%60%7B%7D%254",
    '/a?b[]=|^`{}"<>\u00e9%': "/a?b[]=|^`{}%22%3C%3E%C3%A9%25",
    "/a/./b/../c/.": "/a/c/",
    "/..": "/",
    "?a=b": "/?a=b",
    "/a#b?c": "/a",
}


def test_what_is_valid_is_asked_for_byte_for_byte_and_the_rest_percent_encoded(
    server: Server, fetch: Fetch
) -> None:
    wanted = {path: path for path in VALID[:-1]} | {"/%": "/%25"} | ENCODED
    listed = [path for path in wanted if " " not in path]
    fetch = fetch.model_copy(update={"connections": 1, "deadline_seconds": 20.0})  # on a busy machine too
    results(fetch, [server.url(path) for path in listed])
    assert server.targets == [wanted[path] for path in listed]
    assert result(fetch, server.url("/a b")) == "bad_url"  # of a list
    for path, target in wanted.items():
        for location in (path, server.url(path)):
            server.targets.clear()
            server.answers["/start/here"] = redirect(location.encode().decode("latin-1"))
            result(fetch, server.url("/start/here"))
            expected = "/start/here?a=b" if location == "?a=b" else target
            assert server.targets == ["/start/here", expected], location


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/caf\xe9.jpg", "/caf%E9.jpg"),  # latin-1
        ("/caf\xc3\xa9.jpg", "/caf%C3%A9.jpg"),  # UTF-8
        ("c\xe9?d=\xff", "/a%2Fx/c%E9?d=%FF"),
        ("?d=%2f", "/a%2Fx/b?d=%2f"),
        ("?", "/a%2Fx/b?"),
        ("//127.0.0.1:{port}/c%28", "/c%28"),
        ("//127.0.0.1:{port}", "/"),
        ("HTTP://127.0.0.1:{port}?d", "/?d"),
        ("../c", "/c"),
        ("../../../c/", "/c/"),
        (".", "/a%2Fx/"),
        ("./c;d=1,2:3", "/a%2Fx/c;d=1,2:3"),
        ("c//d", "/a%2Fx/c//d"),
        (" /c ", "/c"),
        ("\\c\\d?e\\f", "/c/d?e%5Cf"),
        ("/c#d", "/c"),
    ],
)
def test_where_a_server_sends_us_is_asked_for_byte_for_byte(
    server: Server, fetch: Fetch, location: str, target: str
) -> None:
    fetch = fetch.model_copy(update={"deadline_seconds": 20.0})
    server.answers["/a%2Fx/b?q=1"] = redirect(location.format(port=server.port))
    result(fetch, server.url("/a%2Fx/b?q=1"))
    assert server.targets == ["/a%2Fx/b?q=1", target]


def test_a_fragment_alone_leads_to_where_we_are(server: Server, fetch: Fetch) -> None:
    server.answers["/a?q=1"] = redirect("#part")
    assert result(fetch, server.url("/a?q=1")) == "too_many_redirects"
    assert set(server.targets) == {"/a?q=1"}


@given(
    st.text(max_size=40),
    st.sampled_from(["", "http://", "http://a", "https://[", "http://xn--", "http://a@"]),
)
def test_whatever_a_list_holds_is_a_url_or_refused(text: str, start: str) -> None:
    fields: dict[str, Any] = {"allowed_ports": [80, 443], "allowed_private_hosts": []}
    fetch = Fetch.model_construct(**fields)
    with suppress(Refused):
        url = checked_url(start + text, fetch)
        assert str(url).isascii()
        assert plain_url(str(url)) == url
    with suppress(Refused):
        checked_url(resolved(plain_url("http://a.example/b?c"), start + text), fetch)


def test_redirects_are_followed_so_far_and_no_further(server: Server, fetch: Fetch) -> None:
    server.answers["/0"] = redirect("1")
    server.answers["/1"] = redirect(server.url("/2"), 301)
    server.answers["/2"] = body(b"picture")
    server.answers["/loop"] = redirect("/loop")
    assert result(fetch, server.url("/0")) == b"picture"
    assert result(fetch, server.url("/loop")) == "too_many_redirects"
    assert server.hits["/loop"] == fetch.max_redirects + 1


def test_a_server_can_take_no_more_than_the_deadline_and_the_bytes(server: Server, fetch: Fetch) -> None:
    server.answers |= {
        "/slow_body": drip(OK + b"Content-Length: 100000\r\n\r\n"),
        "/slow_head": drip(OK + b"X-Header: "),
        "/silent": late(body(b"picture"), 60),
        "/huge": endless(OK + b"\r\n"),
        "/huge_claimed": body(b"x", length=10_000_000_000),
        "/huge_chunks": endless(OK + b"Transfer-Encoding: chunked\r\n\r\nfffffff\r\n"),
        "/huge_head": endless(OK + b"X-Header: "),
    }
    start_seconds = time.monotonic()
    before_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert results(fetch, [server.url(path) for path in server.answers]) == [
        "timeout", "timeout", "timeout", "too_large", "too_large", "too_large", "bad_response",
    ]  # fmt: skip
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kilobytes
    assert grown < 64 * 1024
    assert time.monotonic() - start_seconds < 20  # generous: it would be 60 and more without a deadline


def test_the_deadline_is_for_all_attempts_and_waits_together(
    server: Server, fetch: Fetch, waits: list[float]
) -> None:
    server.answers["/busy"] = status(503, "Retry-After: 1000000000")
    patient = fetch.model_copy(update={"retries": 5, "deadline_seconds": 20.0})
    assert result(patient, server.url("/busy")) == "http_503"
    assert server.hits["/busy"] == 6
    assert 15 < sum(waits) < 20


def deflated(data: bytes) -> bytes:
    """Return deflate without a frame, as some servers send it."""
    return zlib.compress(data, wbits=-zlib.MAX_WBITS)


def chunks(data: bytes, *headers: str) -> bytes:
    """Return an answer in chunks of one byte."""
    lines = "".join(f"{header}\r\n" for header in headers).encode()
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in data)
    return OK + b"Transfer-Encoding: chunked\r\n" + lines + b"\r\n" + body + b"0\r\n\r\n"


PACKED = gzip.compress(b"picture")
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
LONG = bytes(range(256)) * 700  # comes out of its coding in several pieces
WHOLE_ANSWERS: dict[str, Answer] = {
    **{f"/coding/{number}": body(b"picture", f"Content-Encoding:{word}") for number, word in enumerate((
        "", " ", " identity", " none", " UTF-8", " aws-chunked", " binary,", " image/jpeg", " None;q=1",
    ))},
    "/codings": body(PACKED, "Content-Encoding: aws-chunked", "Content-Encoding: GZIP, identity"),
    "/gzip": body(PACKED, "Content-Encoding: gzip"),
    "/x-gzip": body(PACKED, "content-encoding: X-GZip"),
    "/members": body(b"".join(map(gzip.compress, (b"pic", b"", b"ture"))), "Content-Encoding: gzip"),
    "/padded": body(PACKED + bytes(5) + b"garbage", "Content-Encoding: gzip"),
    "/chunks": raw(chunks(PACKED + b"\x1fgarbage", "Content-Encoding: gzip")),
    "/zlib": body(zlib.compress(b"picture"), "Content-Encoding: deflate"),
    "/deflate": body(deflated(b"picture") + b"garbage", "Content-Encoding: deflate"),
    "/twice": body(gzip.compress(deflated(b"picture")), "Content-Encoding: deflate, gzip"),
    **{f"/status/{code}": raw(b"HTTP/1.1 %d Some\r\nContent-Length: 7\r\n\r\npicture" % code) for code in (
        200, 201, 202, 203, 207, 208, 218, 226, 299,
    )},
    "/long_header": body(b"picture", "X-Policy: " + "x" * 12_000, "X-Cookie: " + "y" * 100_000),
    "/many_headers": body(b"picture", *(f"X-{number}: x" for number in range(600))),
    "/two_lengths": body(b"picture", "Content-Length: 7", "content-length:7"),
    "/list_of_lengths": raw(OK + b"Content-Length: 7, 7\r\n\r\npicture"),
    "/no_length": raw(OK + b"Content-Length:\r\n\r\npicture"),
    "/length_and_chunks": raw(chunks(b"picture", "Content-Length: 999")),
    "/no_headers": raw(OK + b"a line of nothing\r\n: 7\r\nB\xe4d: 1\r\nContent-Length: 7\r\n\r\npicture"),
    "/folded": raw(OK + b"X-Long: a\r\n Content-Length: 3\r\n\tb\r\nContent-Length: 7\r\n\r\npicture"),
    "/bare_lines": raw(b"HTTP/1.1 200\nContent-Length: 7\nContent-Length: 7\n\npicture"),
    "/early": raw(EARLY + OK + b"Content-Length: 7\r\n" * 2 + b"\r\npicture"),
}  # fmt: skip


def test_what_is_whole_is_taken(server: Server, fetch: Fetch) -> None:
    server.answers |= WHOLE_ANSWERS
    patient = fetch.model_copy(update={"deadline_seconds": 20.0})
    found = results(patient, [server.url(path) for path in WHOLE_ANSWERS])
    assert dict(zip(WHOLE_ANSWERS, found, strict=True)) == dict.fromkeys(WHOLE_ANSWERS, b"picture")
    for coded in (gzip.compress(LONG), gzip.compress(LONG, 0)):
        server.answers["/long"] = body(coded, "Content-Encoding: gzip")
        assert result(patient, server.url("/long")) == LONG


async def byte_by_byte(writer: asyncio.StreamWriter) -> None:
    """Send an answer in packets of one byte."""
    for byte in OK + b"Content-Length: 7\r\nContent-Length: 7\r\n\r\npicture":
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)


def test_what_is_not_whole_or_cannot_be_undone_is_refused(server: Server, fetch: Fetch) -> None:
    gzipped, bomb = "Content-Encoding: gzip", gzip.compress(bytes(20_000_000))
    wanted: dict[str, tuple[Answer, bytes | str, int]] = {
        **{f"/coding/{number}": (body(b"x", f"Content-Encoding: {word}"), "encoded_body", 1)
           for number, word in enumerate(
               ("br", "zstd", "compress", "gzip, BR", "x-compress", "dcz", "gzip," * 6)
        )},
        "/no_gzip": (body(b"\xff\xd8\xff\xe0", gzipped), "encoded_body", 1),
        "/damaged": (body(PACKED[:12] + b"xxxx" + PACKED[16:], gzipped), "encoded_body", 1),
        "/no_deflate": (body(b"\xff\xd8\xff\xe0", "Content-Encoding: deflate"), "encoded_body", 1),
        "/cut": (body(PACKED[:-1], gzipped), "short_body", 3),
        "/one_byte": (body(PACKED[:1], gzipped), "short_body", 3),
        "/second_cut": (body(PACKED + PACKED[:-1], gzipped), "short_body", 3),
        "/no_body": (body(b"", gzipped), b"", 1),
        "/bomb_in_bomb": (body(gzip.compress(bomb), "Content-Encoding: gzip, gzip"), "too_large", 1),
        "/members": (body(gzip.compress(b"") * 20_000, gzipped), "too_large", 1),
        "/no_content": (status(204), "http_204", 1),
        "/reset_content": (status(205), "http_205", 1),
        "/part": (raw(b"HTTP/1.1 206 Part\r\nContent-Length: 7\r\n\r\npicture"), "http_206", 1),
        "/lengths": (body(b"picture", "Content-Length: 6"), "bad_response", 1),
        "/list_of_lengths": (raw(OK + b"Content-Length: 7, 6\r\n\r\npicture"), "bad_response", 1),
        "/head": (body(b"picture", *("X: " + "x" * 1000 for _ in range(300))), "bad_response", 1),
        "/fields": (body(b"picture", *("X:x" for _ in range(6000))), "bad_response", 1),
    }  # fmt: skip
    server.answers |= {path: answer for path, (answer, _, _) in wanted.items()}
    patient = fetch.model_copy(update={"deadline_seconds": 20.0})
    found = results(patient, [server.url(path) for path in wanted])
    assert dict(zip(wanted, found, strict=True)) == {path: reason for path, (_, reason, _) in wanted.items()}
    assert {path: server.hits[path] for path in wanted} == {
        path: hits for path, (_, _, hits) in wanted.items()
    }
    server.answers["/by_byte"] = byte_by_byte
    assert result(patient, server.url("/by_byte")) == b"picture"


def test_what_is_no_plain_answer_is_refused(server: Server, fetch: Fetch) -> None:
    bomb = gzip.compress(b"\0" * 20_000_000)
    server.answers |= {
        "/gone": status(404),
        "/forbidden": status(403),
        "/for_good": status(410),
        "/garbage": raw(b"\x00\xff\x00 no http \r\n\r\n"),
        "/bomb": body(bomb, "Content-Encoding: gzip"),
        "/no_ai": body(b"picture", "x-robots-tag: NoAI"),
        "/no_index": body(b"picture", "X-Robots-Tag: nofollow", "X-Robots-Tag: all, noindex"),
        "/not_us": body(b"picture", "X-Robots-Tag: otherbot: noai, noindex"),
        "/us": body(b"picture", f"X-Robots-Tag: otherbot: noai, {fetch.user_agent}: noai"),
        "/until": body(b"picture", "X-Robots-Tag: max-snippet: 3, unavailable_after: 1 Jan 2020"),
    }
    assert results(fetch, [server.url(path) for path in server.answers]) == [
        "http_404", "http_403", "http_410", "bad_response", "too_large", "opted_out", "opted_out",
        b"picture", "opted_out", b"picture",
    ]  # fmt: skip
    assert {server.hits[path] for path in ("/gone", "/forbidden", "/for_good")} == {1}
    server.answers["/chunks"] = raw(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nab")
    # whether the head and the garbage come in one packet decides
    assert result(fetch, server.url("/chunks")) in ("bad_response", "short_body")


def test_what_may_pass_is_tried_again(server: Server, fetch: Fetch) -> None:
    fetch = fetch.model_copy(update={"deadline_seconds": 2.0})  # of which a wait takes half
    good = body(b"picture")
    server.answers |= {
        "/resets": [reset, good],
        "/busy": [status(503), status(429, "Retry-After: 1000000000"), good],
        "/cut": [body(b"pict", length=7), good],
        "/down": status(500),
        "/cuts": body(b"pict", length=7),
    }
    assert results(fetch, [server.url(path) for path in server.answers]) == [
        b"picture", b"picture", b"picture", "http_500", "short_body",
    ]  # fmt: skip
    assert server.hits["/down"] == server.hits["/cuts"] == fetch.retries + 1
    # by itself: a connection that another answer leaves may be taken, and closed before the server is asked
    server.answers["/never"] = reset
    assert result(fetch, server.url("/never")) == "connection_failed"
    # aiohttp itself asks once more where a connection, maybe an old one, was closed without an answer
    assert server.hits["/never"] == 2 * (fetch.retries + 1)


def test_a_wait_before_a_retry_takes_nobodys_turn(server: Server, fetch: Fetch) -> None:
    """While the first waits for half of its deadline, the second comes through the only connection."""
    alone = {"connections": 1, "connections_per_host": 1, "deadline_seconds": 1.0}
    asked: list[str] = []

    def noted(path: str, answer: Answer) -> Answer:
        async def note(writer: asyncio.StreamWriter) -> None:
            asked.append(path)
            await answer(writer)

        return note

    busy = [noted("/busy", status(503, "Retry-After: 1")), noted("/busy", body(b"picture"))]
    server.answers |= {"/busy": busy, "/other": noted("/other", body(b"picture"))}
    urls = [server.url("/busy"), server.url("/other")]
    assert results(fetch.model_copy(update=alone), urls) == [b"picture", b"picture"]
    assert asked == ["/busy", "/other", "/busy"]


def test_no_server_and_no_name(server: Server, fetch: Fetch) -> None:
    nobody = fetch.model_copy(update={"allowed_ports": [1], "retries": 1})
    assert result(nobody, "http://127.0.0.1:1/") == "connection_failed"
    assert result(nobody.model_copy(update={"retries": 0}), "http://nobody.invalid:1/") == "dns_failed"


def test_many_rows_of_one_host_wait_without_their_deadline_running(server: Server, fetch: Fetch) -> None:
    narrow = fetch.model_copy(update={"connections_per_host": 2, "connections": 2})
    paths = [f"/{number}" for number in range(30)]
    server.answers |= {path: late(body(path.encode()), 0.05) for path in paths}
    assert results(narrow, [server.url(path) for path in paths]) == [path.encode() for path in paths]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("fc00::1", False),
        ("fe80::1%eth0", False),
        ("::ffff:10.0.0.1", False),
        ("2002:0a00:0001::", False),  # 6to4 of 10.0.0.1
        ("64:ff9b::a00:1", False),  # NAT64 of 10.0.0.1
        ("64:ff9b::808:808", True),
        ("64:ff9b:1::a00:1", False),  # NAT64 of a network's own
        ("::10.0.0.1", False),
        ("::ffff:0:10.0.0.1", False),
        ("fec0::1", False),
        ("2001:db8::1", False),
        ("3fff::1", False),
        ("192.0.0.8", False),
        ("192.88.99.1", False),
        ("2002:c058:6301::", False),  # 6to4 of 192.88.99.1
        ("no address", False),
    ],
)
def test_public_unicast_addresses_only(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_password_is_never_kept() -> None:
    assert without_credentials("http://user:pa@ss@a.example/b@c") == "http://***@a.example/b@c"
    assert without_credentials("http://a.example/b@c") == "http://a.example/b@c"


def test_international_names_and_escapes_are_fine(fetch: Fetch) -> None:
    open_port = fetch.model_copy(update={"allowed_ports": [443]})
    for host, asked in {
        "bücher.example": "xn--bcher-kva.example",
        "BÜCHER.example.": "xn--bcher-kva.example.",
        "straße.de": "xn--strae-oqa.de",
        "xn--strae-oqa.de": "xn--strae-oqa.de",
        "i❤.ws": "xn--i-7iq.ws",
        "xn--3s9h.ws": "xn--3s9h.ws",  # an emoji that IDNA 2003 did not know
        "my_bucket.XN--BCHER-KVA.example": "my_bucket.xn--bcher-kva.example",
        "-a-.b--c.example": "-a-.b--c.example",
    }.items():
        url = checked_url(f"https://@{host}:00443/ä%20b.jpg?x=1#y", open_port)
        assert str(url) == f"https://{asked}/%C3%A4%20b.jpg?x=1"
