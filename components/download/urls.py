"""Normalise urls as browsers do: valid bytes stay, others are percent-encoded."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from yarl import URL

from components.download.refusal import Refused

MAX_URL_CHARACTERS = 8192
MAX_NAME_CHARACTERS, MAX_PORT_DIGITS = 253, 5
DEFAULT_PORTS = {"http": 80, "https": 443}
REFUSED_CHARACTERS = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")
REFERENCE = re.compile(  # RFC 3986, appendix B
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):)?(?://(?P<authority>[^/?#]*))?"
    r"(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#.*)?",
    re.DOTALL,
)
AUTHORITY = re.compile(
    r"(?:(?P<user>.*)@)?(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<name>[^:\[\]@]*))(?::(?P<port>[0-9]*))?", re.DOTALL
)
HOST_NAME = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
LONE_PERCENT = r"%(?![0-9A-Fa-f]{2})"
VALID = r"A-Za-z0-9\-._~!$&'()*+,;=:@/%"  # RFC 3986
# browsers leave some more alone in a query, and signatures are made of what they send
NOT_IN_PATH = re.compile(rf"{LONE_PERCENT}|[^{VALID}]")
NOT_IN_QUERY = re.compile(rf"{LONE_PERCENT}|[^{VALID}?\[\]|^`{{}}]")
DOT = re.compile(r"\.|%2e", re.IGNORECASE)
DOTS = re.compile(r"(?:\.|%2e){2}", re.IGNORECASE)


@dataclass(frozen=True)
class Parts:
    """The parts of a URL or of a reference to one; None where a part is not there, which is not empty."""

    scheme: str | None
    authority: str | None
    path: str
    query: str | None

    def __str__(self) -> str:
        """Join the parts again; the fragment, which is never sent, is gone."""
        start = f"{self.scheme}:" if self.scheme is not None else ""
        start += f"//{self.authority}" if self.authority is not None else ""
        return start + self.target

    @property
    def target(self) -> str:
        """Path and query, percent-encoded where they are not valid."""
        path = _encoded(_without_dots(self.path), NOT_IN_PATH)
        return path if self.query is None else f"{path}?{_encoded(self.query, NOT_IN_QUERY)}"


def split(text: str) -> Parts:
    """Return the parts of a URL or a reference; nothing is checked or changed, but the scheme's case."""
    match = REFERENCE.fullmatch(text)
    if match is None:
        raise AssertionError("the path takes whatever nothing else takes")
    scheme: str | None = match["scheme"]
    return Parts(scheme and scheme.lower(), match["authority"], match["path"], match["query"])


def plain_url(text: str) -> URL:
    """Return an http(s) URL whose path and query are sent as they stand, and whose host can be looked up.

    Raises:
        Refused: malformed, of another scheme, with credentials, or with an address in disguise.
    """
    if len(text) > MAX_URL_CHARACTERS or REFUSED_CHARACTERS.search(text):
        raise Refused("bad_url")
    parts = split(text)
    if parts.scheme not in DEFAULT_PORTS:
        raise Refused("scheme_not_allowed" if parts.scheme else "bad_url")
    match = AUTHORITY.fullmatch(parts.authority or "")
    if match is None:
        raise Refused("bad_url")
    host = _ipv6(match["ipv6"]) if match["ipv6"] is not None else host_name(match["name"])
    port = _port(match["port"], DEFAULT_PORTS[parts.scheme])
    if (match["user"] or "").strip(":"):
        raise Refused("credentials_in_url")
    netloc = host if port == DEFAULT_PORTS[parts.scheme] else f"{host}:{port}"
    rooted = replace(parts, path=parts.path or "/")
    # the query is given as a part of the path: yarl would drop the mark of an empty one
    return URL.build(scheme=parts.scheme, authority=netloc, path=rooted.target, encoded=True)


def resolved(base: URL, reference: str) -> str:
    """Return what a reference (a `Location`) means, seen from a URL; RFC 3986, section 5.2.

    Args:
        base: Of `plain_url`.
        reference: As aiohttp gives it: bytes that are not UTF-8 are in it as lone surrogates, and come out
            percent-encoded as they came.
    """
    reference = re.sub(r"[\t\r\n]", "", reference.strip("".join(map(chr, range(0x21)))))
    there, here = split(reference), split(str(base))
    if there.scheme in (None, *DEFAULT_PORTS):  # where browsers take a backslash for a slash
        before, mark, after = reference.partition("?")
        there = split(before.replace("\\", "/") + mark + after)
    if there.scheme is not None:
        return str(there)
    if there.authority is not None:
        return str(replace(there, scheme=here.scheme))
    if not there.path:
        query = here.query if there.query is None else there.query
        return str(replace(here, query=query))
    path = there.path
    if not path.startswith("/"):
        path = here.path[: here.path.rindex("/") + 1] + path
    return str(replace(here, path=path, query=there.query))


def host_name(text: str) -> str:
    """Return a host as it is looked up: lower case, other scripts in IDNA's letters.

    Raises:
        Refused: it is no name, or a number that some read as an address.
    """
    try:
        host = URL.build(scheme="http", host=text).raw_host or ""
        for label in host.split("."):
            # labels apart, and not the last one: yarl reads no name that ends in a digit
            if (
                label.startswith("xn--")
                and (URL.build(scheme="http", host=f"{label}.x").host or "").isascii()
            ):
                raise Refused("bad_url")
    except (ValueError, IndexError):
        raise Refused("bad_url") from None
    bare = host.removesuffix(".")
    if not HOST_NAME.fullmatch(host) or len(bare) > MAX_NAME_CHARACTERS:
        raise Refused("bad_url")
    if NUMBER.fullmatch(bare.rpartition(".")[2]):
        _check_address(host)
    return host


def _check_address(host: str) -> None:
    """Refuse all that some would connect to without looking it up, but a plain IPv4 address."""
    try:
        if str(IPv4Address(host)) == host:
            return
    except ValueError:
        pass
    try:
        socket.inet_aton(host.removesuffix("."))
    except OSError:
        raise Refused("bad_url") from None
    raise Refused("private_address")


def _ipv6(text: str) -> str:
    try:
        address = IPv6Address(text)
    except ValueError:
        raise Refused("bad_url") from None
    if address.scope_id is not None:
        raise Refused("bad_url")
    return f"[{address.compressed}]"


def _port(digits: str | None, default: int) -> int:
    if not digits:
        return default
    number = digits.lstrip("0") or "0"
    if len(number) > MAX_PORT_DIGITS or int(number) > 0xFFFF:
        raise Refused("bad_url")
    return int(number)


def _without_dots(path: str) -> str:
    """Remove the segments `.` and `..` with what they lead out of; nothing else changes."""
    if not path.startswith("/") or not DOT.search(path):
        return path
    segments: list[str] = []
    parts = path[1:].split("/")
    for index, segment in enumerate(parts):
        is_up = bool(DOTS.fullmatch(segment))
        if is_up or DOT.fullmatch(segment):
            if is_up and segments:
                segments.pop()
            if index == len(parts) - 1:
                segments.append("")
        else:
            segments.append(segment)
    return "/" + "/".join(segments)


def _encoded(text: str, invalid: re.Pattern[str]) -> str:
    return invalid.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape")), text
    )
