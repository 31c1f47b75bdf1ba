"""Normalise URLs as browsers do: keep valid bytes, percent-encode others."""

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
# browsers keep more characters in a query, and signed URLs depend on what they send
NOT_IN_PATH = re.compile(rf"{LONE_PERCENT}|[^{VALID}]")
NOT_IN_QUERY = re.compile(rf"{LONE_PERCENT}|[^{VALID}?\[\]|^`{{}}]")
DOT = re.compile(r"\.|%2e", re.IGNORECASE)
DOTS = re.compile(r"(?:\.|%2e){2}", re.IGNORECASE)


@dataclass(frozen=True)
class Parts:
    """The parts of a URL or relative reference; None for a missing part, which differs from an empty one."""

    scheme: str | None
    authority: str | None
    path: str
    query: str | None

    def __str__(self) -> str:
        """Join the parts, without the fragment, which is never sent."""
        start = f"{self.scheme}:" if self.scheme is not None else ""
        start += f"//{self.authority}" if self.authority is not None else ""
        return start + self.target

    @property
    def target(self) -> str:
        """Path and query, percent-encoded where they are not valid."""
        path = _encoded(_without_dots(self.path), NOT_IN_PATH)
        return path if self.query is None else f"{path}?{_encoded(self.query, NOT_IN_QUERY)}"


def split(text: str) -> Parts:
    """Split a URL or reference into its parts; only the scheme's case is changed, nothing is checked."""
    match = REFERENCE.fullmatch(text)
    if match is None:
        raise AssertionError("REFERENCE matches any text: its path takes the rest")
    scheme: str | None = match["scheme"]
    return Parts(scheme and scheme.lower(), match["authority"], match["path"], match["query"])


def plain_url(text: str) -> URL:
    """Return an http(s) URL whose path and query are sent unchanged, and whose host can be resolved.

    Raises:
        Refused: malformed, another scheme, with credentials, or with a disguised IP address.
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
    with_path = replace(parts, path=parts.path or "/")
    # the query is passed inside the path: yarl would drop the `?` of an empty one
    return URL.build(scheme=parts.scheme, authority=netloc, path=with_path.target, encoded=True)


def resolved(base: URL, reference: str) -> str:
    """Resolve a reference, such as a `Location` header, against a base URL; RFC 3986, section 5.2.

    Args:
        base: URL from `plain_url`.
        reference: As aiohttp returns it. Bytes that are not UTF-8 are lone surrogates in it; they come out
            percent-encoded.
    """
    reference = re.sub(r"[\t\r\n]", "", reference.strip("".join(map(chr, range(0x21)))))
    target, current = split(reference), split(str(base))
    if target.scheme in (None, *DEFAULT_PORTS):  # browsers read a backslash as a slash here
        before, mark, after = reference.partition("?")
        target = split(before.replace("\\", "/") + mark + after)
    if target.scheme is not None:
        return str(target)
    if target.authority is not None:
        return str(replace(target, scheme=current.scheme))
    if not target.path:
        query = current.query if target.query is None else target.query
        return str(replace(current, query=query))
    path = target.path
    if not path.startswith("/"):
        path = current.path[: current.path.rindex("/") + 1] + path
    return str(replace(current, path=path, query=target.query))


def host_name(text: str) -> str:
    """Return a host name as DNS wants it: lower case, other scripts encoded by IDNA.

    Raises:
        Refused: no host name, or a number that some programs read as an IP address.
    """
    try:
        host = URL.build(scheme="http", host=text).raw_host or ""
        for label in host.split("."):
            # one label at a time, and never last: yarl rejects a name that ends in a digit
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
    """Accept a plain IPv4 address; refuse any other number that programs connect to without a DNS lookup."""
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
    """Remove the segments `.` and `..`, and each segment that a `..` cancels; nothing else changes."""
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
