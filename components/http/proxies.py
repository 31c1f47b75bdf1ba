"""HTTP proxies from the environment, for our own clients.

The hub's client and boto3 read the same variables themselves.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.request import getproxies_environment

import aiohttp
from yarl import URL

from components.errors import ConfigurationError, InfrastructureError
from components.settings.environment import is_loopback

SCHEMES = ("http", "https")
ANSWER_SECONDS = 5.0
LOGIN_WANTED = 407  # of HTTP


@dataclass(frozen=True)
class Proxy:
    """A proxy.

    Attributes:
        variable: The environment variable that names it.
        url: Where it is; it may hold a password, so that `address` is what messages name.
    """

    variable: str
    url: URL

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{self.url.host_subcomponent}:{self.url.port}"

    def is_cause_of(self, error: aiohttp.ClientError) -> bool:
        """Say whether an error is of the connection to the proxy, not of what lies behind."""
        return isinstance(error, aiohttp.ClientConnectorError) and error.host == self.url.raw_host

    def answers(self) -> bool:
        """Say whether it takes connections."""
        try:
            with socket.create_connection((self.url.raw_host or "", self.url.port or 0), ANSWER_SECONDS):
                return True
        except (OSError, UnicodeError):
            return False

    def no_answer(self) -> InfrastructureError:
        """Return what is said of one that takes no connection."""
        return InfrastructureError(
            f"the proxy {self.address} ({self.variable}) does not answer; expected it to take connections: "
            "start it, or correct or unset the variable, and run again"
        )

    def no_login(self) -> ConfigurationError:
        """Return what is said of one that wants another login."""
        return ConfigurationError(
            f"the proxy {self.address} answers {LOGIN_WANTED}; expected a login that it accepts: set "
            f"{self.variable} to http://USER:PASSWORD@{self.address}"
        )


class Proxies:
    """Which proxy a URL is asked for through.

    Args:
        direct: Hosts that are asked directly, besides loopback and those of NO_PROXY.

    Raises:
        ConfigurationError: a variable names no proxy that can be used.
    """

    def __init__(self, direct: Collection[str] = ()) -> None:
        self._direct = frozenset(direct)
        self._environment = getproxies_environment()
        self._proxies = {scheme: proxy for scheme in SCHEMES if (proxy := self._named_for(scheme))}

    def all(self) -> list[Proxy]:
        """Return each proxy once."""
        return list({proxy.url: proxy for proxy in self._proxies.values()}.values())

    def of(self, url: URL) -> Proxy | None:
        """Return the proxy for a URL; None where its host is asked directly."""
        host, proxy = url.raw_host or "", self._proxies.get(url.scheme)
        if proxy is None or host in self._direct or is_loopback(host) or self._is_exempt(host, url.port):
            return None
        return proxy

    def _named_for(self, scheme: str) -> Proxy | None:
        name = scheme if self._environment.get(scheme) else "all"
        text, variable = self._environment.get(name, ""), f"{name.upper()}_PROXY"
        if not text:
            return None
        try:
            url = URL(text if "://" in text else f"http://{text}")
        except ValueError:
            url = URL()
        if url.scheme not in SCHEMES or not url.raw_host:
            raise ConfigurationError(
                f"{variable} names no http(s) proxy; expected http://HOST:PORT: correct or unset it"
            )
        return Proxy(variable, url)

    def _is_exempt(self, host: str, port: int | None) -> bool:
        """Say whether NO_PROXY holds a host: its name, its domain, its name with the port, or its network."""
        for entry in self._environment.get("no", "").lower().split(","):
            name = entry.strip().strip("[]").removeprefix("*").lstrip(".")
            if name and (name in (host, f"{host}:{port}") or host.endswith(f".{name}") or _holds(name, host)):
                return True
            if entry.strip() == "*":
                return True
        return False


def _holds(network: str, host: str) -> bool:
    """Say whether an address is in a network, such as 10.0.0.0/8."""
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False
