"""Check URLs and IP addresses before a request: http(s), allowed ports, public unicast addresses only."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from components.download.refusal import Refused
from components.download.urls import plain_url
from components.settings.download import Fetch

NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # all that IANA assigns; `ipaddress` allows more
LOOPBACK_NAME = re.compile(r"(?:.+\.)?localhost\.?")  # RFC 6761; a proxy would connect to itself
SET_APART = [  # reserved by IANA; not every Python's `ipaddress` knows them
    ipaddress.ip_network(network) for network in ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")
]


def checked_url(text: str, fetch: Fetch) -> URL:
    """Return a URL that may be requested.

    Raises:
        Refused: malformed, another scheme or port, with credentials, or an address that is not public.
    """
    url = plain_url(text)
    host = url.raw_host or ""
    if url.port not in fetch.allowed_ports:
        raise Refused("port_not_allowed")
    if host not in fetch.allowed_private_hosts and (
        (_is_address(host) and not is_public(host)) or LOOPBACK_NAME.fullmatch(host)
    ):
        raise Refused("private_address")
    return url


def is_public(address: str) -> bool:
    """Say whether an IP address is valid and public unicast, and so is an IPv4 address embedded in it."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded is None and ip not in GLOBAL_UNICAST:
            return False
        ip = embedded or ip
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in SET_APART)


class PublicResolver(AbstractResolver):
    """Resolve host names and refuse those with an address that is not public.

    aiohttp connects to the addresses returned here, so a DNS answer cannot change after the check.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._allowed = frozenset(fetch.allowed_private_hosts)
        # one thread per connection: a DNS server that does not answer must not block other names
        self._threads = ThreadPoolExecutor(fetch.connections, "names")
        self._pending_lookups: Counter[str] = Counter()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host.

        Raises:
            Refused: the host has no address, or one that is not public.
        """
        look_up = partial(socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM)
        self._pending_lookups[host] += 1
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        except (socket.gaierror, UnicodeError):
            raise Refused("dns_failed", may_pass=True) from None
        finally:
            self._pending_lookups[host] -= 1
        addresses = [str(address[4][0]) for address in answers]
        if host not in self._allowed and not all(is_public(address) for address in addresses):
            raise Refused("private_address")
        return [_result(host, port, address) for address in answers]

    def is_looking_up(self, host: str) -> bool:
        """Say whether a DNS lookup of this host is still waiting for an answer."""
        return self._pending_lookups[host] > 0

    async def close(self) -> None:
        """Shut down the threads; one that still waits for an answer ends when its lookup times out."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _is_address(host: str) -> bool:
    """Say whether aiohttp connects to a host without the resolver; `plain_url` refuses all other numbers."""
    return ":" in host or host.replace(".", "").isdigit()


def _result(host: str, port: int, address: tuple[Any, ...]) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=str(address[4][0]),
        port=port,
        family=int(address[0]),
        proto=int(address[2]),
        flags=int(socket.AI_NUMERICHOST),
    )
