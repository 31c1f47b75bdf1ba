"""What one fetch may cost, whatever the server does: docs/faults.md, P9. Timed: a slow test."""

from __future__ import annotations

import asyncio
import gzip
import re
import sys
import time
from pathlib import Path

import pytest

from components.settings.download import Fetch
from tests.download.server import Answer, Server, body, drip, endless, late, raw, redirect, reset, status
from tests.download.test_fetching import OK, result

DEADLINE_SECONDS, MAX_BYTES = 3.0, 1_000_000
MORE_BYTES = 64 << 20
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
PICTURE = b"picture"


async def half_a_head(writer: asyncio.StreamWriter) -> None:
    """Begin to answer, and never go on."""
    writer.write(OK + b"Content-Le")
    await writer.drain()
    await asyncio.sleep(60)


async def two_answers(writer: asyncio.StreamWriter) -> None:
    """Send a second answer that nobody asked for."""
    await body(PICTURE)(writer)
    await body(b"another")(writer)


def behaviours(server: Server) -> dict[str, tuple[Answer | list[Answer], bytes | str | None]]:
    """Return what a server does by its path, and what is to become of it; None: it depends on packets."""
    secret = f"http://localhost:{server.port}/secret"
    return {
        "/well": (body(PICTURE), PICTURE),
        "/silent": (late(body(PICTURE), 60), "timeout"),
        "/half_head": (half_a_head, "timeout"),
        "/slow_head": (drip(OK + b"X-Header: "), "timeout"),
        "/slow_body": (drip(OK + b"Content-Length: 100000\r\n\r\n"), "timeout"),
        "/slow_unending": (drip(OK + b"\r\n"), "timeout"),
        "/slow_chunks": (drip(CHUNKED + b"ffff\r\n"), "timeout"),
        "/huge": (endless(OK + b"\r\n"), "too_large"),
        "/huge_claimed": (body(b"x", length=10_000_000_000), "too_large"),
        "/huge_chunks": (endless(CHUNKED + b"fffffff\r\n"), "too_large"),
        "/huge_head": (endless(OK + b"X-Header: "), "bad_response"),
        "/many_heads": (raw(OK + b"".join(b"X-%d: x\r\n" % n for n in range(100_000))), None),
        "/huge_status": (endless(b"HTTP/1.1 200 "), "bad_response"),
        "/bomb": (body(gzip.compress(bytes(100_000_000)), "Content-Encoding: gzip"), "too_large"),
        "/deflate": (body(b"x", "Content-Encoding: deflate"), "short_body"),
        "/short": (body(b"pict", length=7), "short_body"),
        "/bad_chunks": (raw(CHUNKED + b"zz\r\nab"), None),
        "/bad_length": (raw(OK + b"Content-Length: many\r\n\r\n"), "bad_response"),
        "/two_lengths": (raw(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), "bad_response"),
        "/reset": (reset, "connection_failed"),
        "/busy": (status(503, "Retry-After: 1000000000"), "http_503"),
        "/too_many": (status(429, "Retry-After: 3"), "http_429"),
        "/gone": (status(410), "http_410"),
        "/loop": (redirect("/loop"), "too_many_redirects"),
        "/slow_loop": (late(redirect("/slow_loop"), 2.0), "timeout"),
        "/inside": (redirect(secret), "private_address"),
        "/metadata": (redirect(f"http://169.254.169.254:{server.port}/"), "private_address"),
        "/file": (redirect("file:///etc/passwd"), "scheme_not_allowed"),
        "/not_modified": (status(304), "http_304"),
        "/two_answers": (two_answers, PICTURE),
        "/not_http": (raw(b"\x00\xff\x00\r\n\r\n"), "bad_response"),
        "/ssh": (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "bad_response"),
        "/early": (raw(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50), None),
    }


def peak_bytes() -> int:
    """Return the most memory since it was last reset."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is reset by /proc")
def test_no_server_costs_more_than_the_deadline_and_the_bytes(server: Server, fetch: Fetch) -> None:
    bounded = fetch.model_copy(update={"deadline_seconds": DEADLINE_SECONDS, "max_bytes": MAX_BYTES})
    assert result(bounded, server.url("/warm_up")) == "http_404"
    seconds, grown = {}, {}
    for path, (answer, expected) in behaviours(server).items():
        server.answers[path] = answer
        Path("/proc/self/clear_refs").write_text("5")
        before, start_seconds = peak_bytes(), time.monotonic()
        found = result(bounded, server.url(path))
        seconds[path], grown[path] = time.monotonic() - start_seconds, peak_bytes() - before
        assert expected in (None, found), path
        assert expected is not None or isinstance(found, str), path
    slowest, largest = max(seconds, key=seconds.__getitem__), max(grown, key=grown.__getitem__)
    said = f"{len(seconds)} behaviours: {slowest} {seconds[slowest]:.2f} s, {largest} {grown[largest]} bytes"
    assert seconds[slowest] <= 1.2 * DEADLINE_SECONDS, said
    assert grown[largest] <= MAX_BYTES + MORE_BYTES, said
    assert server.hits["/secret"] == 0
    sys.stdout.write(said)
